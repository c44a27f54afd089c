"""torchvision's video networks, trained on Kinetics-400, without their heads.

Sizes, addresses and scales follow torchvision 0.29; the file names end in the first digits of their sha256. Each class
below takes the parts of torchvision's network under their own names, so that a published file fits as it is. What
torchvision fixes to 224x224 is freed: S3D pools whatever map it gets, and MViT's position tables keep their published
lengths and are stretched to the grid of the input at each call. torchvision itself is imported when a network is
built, since one that does not match torch fails already on import.
"""

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import (
    Address,
    Backbone,
    BackboneSpec,
    Scale,
    Stem,
    Weights,
    at_least,
)
from cryoclass.errors import UsageError

FOLDER = "https://download.pytorch.org/models"

Grid = tuple[int, int, int]


def torchvision_module(name: str) -> ModuleType:
    """Import a part of torchvision.

    Raises
    ------
    UsageError
        It is missing, or was made for another release of torch.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            f"torchvision cannot be imported: {error}.",
            "Install the torchvision that belongs to this torch (pip install --upgrade torch torchvision).",
        ) from error


def take_channels(convolution: nn.Conv3d, channels: int) -> nn.Conv3d:
    """Let a convolution over three channels see ``channels`` of them; returns it."""
    convolution.weight = nn.Parameter(convolution.weight.detach()[:, :channels].clone())
    convolution.in_channels = channels
    return convolution


class VideoResNet(Backbone):
    """R3D, MC3 and R(2+1)D: residual networks that differ in how they convolve along depth. Any input size."""

    width = 512
    map_channels = (64, 128, 256, 512)
    explained = "layer3"

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.stem = network.stem
        take_channels(self.stem[0], channels)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Turn ``(N, channels, D, H, W)`` into what each of the four layers makes of it, sides halved from layer to layer."""
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 512)``, the mean of the last map."""
        return self.pool(self.feature_maps(x)[-1])


class S3d(Backbone):
    """Separable 3D Inception. Its fixed pool of 2x7x7 is replaced by the mean over the whole map."""

    width = 1024

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.features = network.features
        take_channels(self.features[0][0][0], channels)
        for part in self.features.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.momentum = (
                    0.1  # with torchvision's 0.001, a fine-tuning of some 1000 steps would hardly move it
                )

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 1024)``, the mean of the last map."""
        return self.pool(self.features(x))


class VideoSwin(Backbone):
    """Video Swin transformer: attention within shifted windows of 8x7x7 tokens of 2x4x4 voxels. Any input size."""

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.patch_embed, self.features, self.norm = network.patch_embed, network.features, network.norm
        take_channels(self.patch_embed.proj, channels)
        self.width = network.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, width)``, the mean of the normalised tokens."""
        tokens: Tensor = self.norm(self.features(self.patch_embed(x)))
        return tokens.flatten(1, 3).mean(dim=1)


class Mvit(Backbone):
    """Multiscale vision transformer. Its tables of positions are stretched to the input at hand.

    Version 1 has one table in the plane and one along depth, added to the tokens; version 2 has tables of distances,
    which torchvision's blocks stretch by themselves.
    """

    width = 768

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.conv_proj = take_channels(network.conv_proj, channels)
        self.pos_encoding, self.blocks, self.norm = network.pos_encoding, network.blocks, network.norm

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 768)``, the class token."""
        patches: Tensor = self.conv_proj(x)
        grid: Grid = (patches.shape[2], patches.shape[3], patches.shape[4])
        start = self.pos_encoding.class_token.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([start, patches.flatten(2).transpose(1, 2)], dim=1)
        if self.pos_encoding.spatial_pos is not None:
            tokens = tokens + self._positions(grid)
        for block in self.blocks:
            tokens, grid = block(tokens, grid)
        # The norm treats each token by itself; the others are not needed any more.
        normed: Tensor = self.norm(tokens[:, 0])
        return normed

    def _positions(self, grid: Grid) -> Tensor:
        """Return ``(1 + D*H*W, width)``: one row for the class token, then one per place of the grid."""
        table = self.pos_encoding
        along = stretch(table.temporal_pos, grid[:1])
        across = stretch(table.spatial_pos.unflatten(0, table.spatial_size), grid[1:])
        places = along[:, None, None] + across[None]
        return torch.cat([table.class_pos[None], places.flatten(0, 2)])


def stretch(table: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Resample a table of positions ``(*old grid, width)`` linearly to ``(*grid, width)``, places taken as cells.

    A table that fits comes back as it is. Computed in float32, since few runtimes can do it in half precision.
    """
    if tuple(table.shape[:-1]) == grid:
        return table
    mode = ("linear", "bilinear", "trilinear")[len(grid) - 1]
    channels_first = table.movedim(-1, 0)[None].float()
    stretched = F.interpolate(channels_first, size=grid, mode=mode, align_corners=False)
    return stretched[0].movedim(0, -1).to(table.dtype)


# ------------------------------------------------------------------------------------------------ registry

# Red, green and blue from 0 to 1, as torchvision's own transforms say for each file.
KINETICS_SCALE = Scale(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
IMAGENET_SCALE = Scale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
MVIT_SCALE = Scale(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

RESNET_STEM = Stem(weight="stem.0.weight", offset="stem.1.running_mean")
S3D_STEM = Stem(weight="features.0.0.0.weight", offset="features.0.0.1.running_mean")
MVIT_STEM = Stem(weight="conv_proj.weight", offset="conv_proj.bias")
SWIN_STEM = Stem(weight="patch_embed.proj.weight", offset="patch_embed.proj.bias")


def build(function: str, wrap: Callable[[Any, int], Backbone], channels: int) -> Backbone:
    """Return one of torchvision's video networks, randomly initialised, without its head."""
    network = getattr(torchvision_module("torchvision.models.video"), function)()
    return wrap(network, channels)


def published(filename: str, size: int) -> Weights:
    """Return where torchvision publishes a file; ``size`` in bytes. The name ends in the start of the sha256."""
    start = filename.removesuffix(".pth").rpartition("-")[2]
    return Weights(
        filename=filename,
        addresses=(Address(url=f"{FOLDER}/{filename}", hash=f"sha256:{start}"),),
        size=size,
    )


_spec = partial(
    BackboneSpec,
    trained_on="Kinetics-400",
    licence="BSD-3-Clause",
    licence_note="torchvision gives the weights as they are; the terms of the data set may add to that.",
)
_resnet = partial(_spec, width=512, stem=RESNET_STEM, discard=("fc.",), scale=KINETICS_SCALE)
_mvit = partial(_spec, width=768, stem=MVIT_STEM, discard=("head.",), scale=MVIT_SCALE)
_swin = partial(_spec, stem=SWIN_STEM, discard=("head.",), scale=IMAGENET_SCALE, onnx_fixed_depth=True)

SPECS = (
    _resnet(
        name="tv-r3d18-k400",
        summary="R3D-18 (Tran et al. 2018, torchvision)",
        build=partial(build, "r3d_18", VideoResNet),
        parameters=33_147_456,
        gflop=207.7,
        weights=published("r3d_18-b3b3357e.pth", 133_546_000),
    ),
    _resnet(
        name="mc3-18-k400",
        summary="MC3-18: 3D convolutions first, 2D ones behind (Tran et al. 2018, torchvision)",
        build=partial(build, "mc3_18", VideoResNet),
        parameters=11_471_424,
        gflop=221.5,
        weights=published("mc3_18-a90a0ba3.pth", 46_842_000),
    ),
    _resnet(
        name="r2plus1d-18-k400",
        summary="R(2+1)D-18 (Tran et al. 2018, torchvision)",
        build=partial(build, "r2plus1d_18", VideoResNet),
        parameters=31_295_715,
        gflop=210.5,
        weights=published("r2plus1d_18-91a641e6.pth", 126_163_000),
    ),
    _spec(
        name="s3d-k400",
        summary="S3D: separable Inception (Xie et al. 2018, torchvision)",
        build=partial(build, "s3d", S3d),
        width=1024,
        parameters=7_903_776,
        gflop=21.8,
        stem=S3D_STEM,
        discard=("classifier.",),
        scale=KINETICS_SCALE,
        weights=published("s3d-d76dad2f.pth", 33_525_000),
        refuse=at_least(5, 17, 17),  # so that two voxels are left for its last pool
    ),
    _mvit(
        name="mvit-v1-b-k400",
        summary="MViT-B (Fan et al. 2021, torchvision)",
        build=partial(build, "mvit_v1_b", Mvit),
        parameters=36_274_848,
        gflop=84.8,
        weights=published("mvit_v1_b-dbeb1030.pth", 146_553_000),
    ),
    _mvit(
        name="mvit-v2-s-k400",
        summary="MViTv2-S (Li et al. 2022, torchvision)",
        build=partial(build, "mvit_v2_s", Mvit),
        parameters=34_201_920,
        gflop=76.5,
        weights=published("mvit_v2_s-ae3be167.pth", 138_290_000),
        onnx_fixed_depth=True,
    ),
    _swin(
        name="swin3d-t-k400",
        summary="Video Swin-T (Liu et al. 2022, torchvision)",
        build=partial(build, "swin3d_t", VideoSwin),
        width=768,
        parameters=27_844_326,
        gflop=84.2,
        weights=published("swin3d_t-7615ae03.pth", 127_447_000),
    ),
    _swin(
        name="swin3d-s-k400",
        summary="Video Swin-S (Liu et al. 2022, torchvision)",
        build=partial(build, "swin3d_s", VideoSwin),
        width=768,
        parameters=49_502_934,
        gflop=180.3,
        weights=published("swin3d_s-da41c237.pth", 228_892_000),
    ),
    _swin(
        name="swin3d-b-k400",
        summary="Video Swin-B (Liu et al. 2022, torchvision)",
        build=partial(build, "swin3d_b", VideoSwin),
        width=1024,
        parameters=87_630_792,
        gflop=300.8,
        weights=published("swin3d_b_1k-24f7c7c6.pth", 381_822_000),
    ),
    _swin(
        name="swin3d-b-in22k-k400",
        summary="Video Swin-B, from ImageNet-22k (Liu et al. 2022, torchvision)",
        build=partial(build, "swin3d_b", VideoSwin),
        width=1024,
        parameters=87_630_792,
        gflop=300.8,
        trained_on="ImageNet-22k, Kinetics-400",
        weights=published("swin3d_b_22k-7c6ae6fa.pth", 381_822_000),
    ),
)
