"""RB3D, the small network of Gupta et al. (2022), who trained it without labels (MoCo); random start.

Facts from their public code (MOCO-Subtomograms, 2021): 118,474 values with 10 classes. Made for 32x32x32; the pool
takes any size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone, BackboneSpec, at_least

WIDTH = 32  # channels everywhere but inside a block


class Block(nn.Module):
    """Two branches of 16 channels side by side: a 3x3x3 convolution, and a 3x3x3 one between two of 1x1x1."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.right = nn.Sequential(nn.Conv3d(WIDTH, half, 3, padding=1), nn.ReLU(inplace=True))
        self.left = nn.Sequential(
            nn.Conv3d(WIDTH, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(half, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(WIDTH, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, 32, D, H, W)`` into the same shape."""
        return F.relu(torch.cat([self.left(x), self.right(x)], dim=1), inplace=True)


class Rb3d(Backbone):
    """One convolution, one pool, four blocks; 2x2x2 means of the 32 maps are the embedding."""

    width = WIDTH * 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, WIDTH, 3, padding=1)
        self.maxpool = nn.MaxPool3d(2)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 256)``."""
        x = self.maxpool(F.relu(self.conv1(x), inplace=True))
        x = self.blocks(x)
        for axis in (2, 3, 4):
            x = _halves(x, axis)
        return x.flatten(1)


def _halves(x: Tensor, axis: int) -> Tensor:
    """Return the means of the first and the second half of an axis; a voxel in the middle belongs to both.

    Over three axes this is an adaptive pool to 2x2x2, which ONNX does not have.
    """
    side = x.shape[axis]
    half = (side + 1) // 2
    first, second = x.narrow(axis, 0, half), x.narrow(axis, side - half, half)
    return torch.cat([first.mean(axis, keepdim=True), second.mean(axis, keepdim=True)], dim=axis)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


SPECS = (
    BackboneSpec(
        name="rb3d",
        summary="RB3D (Gupta et al. 2022), random start",
        build=Rb3d,
        width=Rb3d.width,
        parameters=118_474 - 2570,  # without a head for 10 classes
        gflop=1.00,
        stem=None,
        input_size=(32, 32, 32),
        refuse=at_least(4, 4, 4),
    ),
)
