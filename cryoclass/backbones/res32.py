"""Res32, a small residual network for boxes of 32 voxels, and the weights of it that come with cryoclass.

A seventieth of the work of a 3D ResNet-34 at 32x128x128, so a laptop CPU is enough. Its pretrained weights come from
invented species (``cryoclass pretrain``); they lie in the package, with a card that says how they were made.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone, BackboneSpec, at_least

CHANNELS = (32, 64, 128, 256)
STRIDES = (1, 2, 2, 2)  # the last map is 2x2x2: with 4x4x4, fewer species were told apart after the same time


class Block(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut, which is a 1x1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, inputs, D, H, W)`` into ``(N, outputs, D/stride, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Res32(Backbone):
    """A 5x5x5 convolution with stride 2, four residual blocks, and the mean of the last map.

    Attributes
    ----------
    centre, sharpen
        ``sharpen @ (mean of the last map - centre)`` is the vector; (E,) and (E, E). Nothing is changed by them until
        pre-training sets them so that what differs between views of one species weighs little
        (:mod:`cryoclass.pretraining.sharpen`). They are no weights, and training leaves them alone.
    """

    width = CHANNELS[-1]
    map_channels = CHANNELS
    explained = "blocks.1"  # 8x8x8, as fine as layer3 of a 3D ResNet is beside its own input
    centre: Tensor
    sharpen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, CHANNELS[0], 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm3d(CHANNELS[0])
        inputs = (CHANNELS[0], *CHANNELS)
        self.blocks = nn.Sequential(*map(Block, inputs, CHANNELS, STRIDES))
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("sharpen", torch.eye(self.width))
        self.apply(_initialise)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Turn ``(N, channels, D, H, W)`` into maps of a half, a 4th, an 8th and a 16th of the sides, rounded up."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return tuple(maps)

    def pool(self, deepest: Tensor) -> Tensor:
        """Turn the last map ``(N, width, d, h, w)`` into ``(N, width)``."""
        return F.linear(deepest.mean((2, 3, 4)) - self.centre, self.sharpen)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, width)``."""
        return self.pool(self.feature_maps(x)[-1])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# ---------------------------------------------------------------------------------------------- registry


def _spec(name: str, summary: str, trained_on: str | None) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        summary=summary,
        build=Res32,
        width=Res32.width,
        parameters=3_587_936,
        gflop=0.79,
        stem=None,
        trained_on=trained_on,
        packaged=trained_on is not None,
        made_for_boxes=True,
        intensity="standard",
        input_size=(32, 32, 32),
        refuse=at_least(8, 8, 8),
    )


SPECS = (
    _spec("res32-species", "Res32 with the weights that come with cryoclass", "invented species"),
    _spec("res32", "Res32, random start", None),
)
