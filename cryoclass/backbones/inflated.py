"""Image networks of ImageNet, inflated along depth (Carreira and Zisserman 2017).

A Swin transformer becomes the Video Swin transformer of the same size, as that one's authors started theirs: the patch
kernel is repeated over two slices and halved, and the table of relative positions repeated over all distances in depth.
A stack of equal slices then gives what the image network says of one slice, wherever a map of tokens is at least 7x7
(torchvision's image network pads smaller ones, its video network shrinks the window) and windows are full in depth.
"""

from functools import partial
from typing import Any

from torch import Tensor

from cryoclass.backbones.spec import BackboneSpec, State
from cryoclass.backbones.torchvision_video import (
    IMAGENET_SCALE,
    SWIN_STEM,
    VideoSwin,
    build,
    published,
)

DEPTH = 2  # slices in a patch
DISTANCES = 15  # from -7 to 7, between the slices of a window of 8

INDEX = "relative_position_index"
TABLE = "relative_position_bias_table"
STEM = "features.0."  # in the file: a convolution (0) and a norm (2)


class InflatedSwin(VideoSwin):
    """Video Swin with the weights of an image network.

    The index of relative positions follows from the shape of the window, so it is no part of the weights here; the one
    in the published file belongs to two dimensions.
    """

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__(network, channels)
        for part in self.features.modules():
            if INDEX in dict(part.named_buffers(recurse=False)):
                part.register_buffer(INDEX, part.get_buffer(INDEX), persistent=False)


def inflate(state: State) -> State:
    """Turn the tensors of torchvision's Swin transformer for images into those of its Video Swin; once is enough."""
    if f"{STEM}0.weight" not in state:
        return state
    inflated = (_inflate(name, value) for name, value in state.items() if not name.endswith(INDEX))
    return dict(inflated)


def _inflate(name: str, value: Tensor) -> tuple[str, Tensor]:
    if name.startswith(STEM):
        name = name.replace(f"{STEM}0", "patch_embed.proj").replace(f"{STEM}2", "patch_embed.norm")
    elif name.startswith("features."):
        _, stage, rest = name.split(".", 2)
        name = f"features.{int(stage) - 1}.{rest}"
    if name == SWIN_STEM.weight:
        value = value[:, :, None].repeat(1, 1, DEPTH, 1, 1) / DEPTH
    elif name.endswith(TABLE):
        value = value.repeat(DISTANCES, 1)
    return name, value


_spec = partial(
    BackboneSpec,
    stem=SWIN_STEM,
    convert=inflate,
    discard=("head.",),
    trained_on="ImageNet-1k",
    scale=IMAGENET_SCALE,
    onnx_fixed_depth=True,
    licence="BSD-3-Clause",
    licence_note="torchvision gives the weights as they are; the terms of ImageNet may add to that.",
)

SPECS = (
    _spec(
        name="swin-t-in1k",
        summary="Swin-T for images, inflated (Liu et al. 2021, torchvision)",
        build=partial(build, "swin3d_t", InflatedSwin),
        width=768,
        parameters=27_844_326,
        gflop=84.2,
        weights=published("swin_t-704ceda3.pth", 113_446_000),
    ),
    _spec(
        name="swin-b-in1k",
        summary="Swin-B for images, inflated (Liu et al. 2021, torchvision)",
        build=partial(build, "swin3d_b", InflatedSwin),
        width=1024,
        parameters=87_630_792,
        gflop=300.8,
        weights=published("swin_b-68c6b09e.pth", 351_655_000),
    ),
)
