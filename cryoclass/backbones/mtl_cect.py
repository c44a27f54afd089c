"""The multi-task network of Liu et al. (2018, arXiv:1805.06332): class, mask and density from one encoder; random start.

Facts from aitom's ``cnn/mult_task``, of which the segmentation network alone is public (SSN3DED, 2,857,762 values). There the last
convolution of the decoder goes from 32 maps to the 2 of its mask. Here it goes to 32, of which each task's head is a weighted sum:
together they compute what that convolution can, for each task.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cryoclass.backbones.decoder import Decoder, resized
from cryoclass.backbones.spec import Backbone, BackboneSpec, multiple_of

CHANNELS = (32, 64, 128)  # at 1/2, 1/4 and 1/8 of the sides
STEP = 2 ** len(CHANNELS)  # three pools halve the sides, and the decoder doubles them as often


class MtlCect(Backbone):
    """Three stages of two convolutions and a pool; the mean of the last map is the vector."""

    width = CHANNELS[-1]
    map_channels = CHANNELS

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(map(_stage, (channels, *CHANNELS), CHANNELS))
        self.apply(_initialise)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Turn ``(N, channels, D, H, W)`` into maps of a half, a 4th and an 8th of the sides."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 128)``."""
        return self.pool(self.feature_maps(x)[-1])

    def make_decoder(self) -> Decoder:
        """Return the decoder of the paper."""
        return MtlCectDecoder()


class MtlCectDecoder(Decoder):
    """Three stages that double the sides; the two finer maps join in, each through a convolution.

    It works on the grid that the network sees, and its maps are resized to that of the box, where that is another.
    """

    width = CHANNELS[0]

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth = CHANNELS
        self.from_eighth = _doubled(eighth, eighth)
        self.skip_quarter = nn.Conv3d(quarter, eighth, 3, padding=1)
        self.from_quarter = _doubled(2 * eighth, quarter)
        self.skip_half = nn.Conv3d(half, quarter, 3, padding=1)
        self.from_half = _doubled(2 * quarter, half)
        self.apply(_initialise)

    def forward(self, maps: Sequence[Tensor], grey: Tensor) -> Tensor:
        """Turn feature maps, the finest first, and boxes ``(N, 1, D, H, W)`` into ``(N, width, D, H, W)``."""
        half, quarter, eighth = maps
        x = torch.cat([self.skip_quarter(quarter), self.from_eighth(eighth)], dim=1)
        x = torch.cat([self.skip_half(half), self.from_quarter(x)], dim=1)
        return resized(self.from_half(x), grey.shape[2:])  # which leaves a map of these sides as it is


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Return what halves the sides, ``(N, inputs, D, H, W)`` to ``(N, outputs, D/2, H/2, W/2)``."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv3d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(2),
    )


def _doubled(inputs: int, outputs: int) -> nn.Sequential:
    """Return what doubles the sides, ``(N, inputs, D, H, W)`` to ``(N, outputs, 2 D, 2 H, 2 W)``."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose3d(outputs, outputs, 2, stride=2),
        nn.Conv3d(outputs, outputs, 3, padding=1),
    )


def _initialise(module: nn.Module) -> None:
    """Keep the scale of the values from layer to layer: there is no batch normalisation that would."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


SPECS = (
    BackboneSpec(
        name="mtl-cect",
        summary="Multi-task network (Liu et al. 2018) with its own decoder, random start",
        build=MtlCect,
        width=MtlCect.width,
        parameters=858_400,
        gflop=3.91,
        stem=None,
        made_for_boxes=True,
        intensity="standard",
        input_size=(32, 32, 32),
        refuse=multiple_of(STEP, STEP, STEP),
    ),
)
