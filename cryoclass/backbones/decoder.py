"""From a backbone's feature maps back to the grid of the box: what masks and densities are read from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 24, 48, 64, 96)
"""Channels at 1, 1/2, 1/4, 1/8 and 1/16 of the box's sides. Nearly all of the work is at the first."""

COARSEST = len(WIDTHS) - 1


class Decoder(nn.Module, ABC):
    """What brings feature maps to the grid of the box.

    Attributes
    ----------
    width
        Channels of what comes out.
    """

    width: int

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], grey: Tensor) -> Tensor:
        """Turn feature maps, the finest first, and boxes ``(N, 1, D, H, W)`` into ``(N, width, D, H, W)``."""


class BoxDecoder(Decoder):
    """Feature maps, the deepest first, each brought to its share of the box's own sides and joined by a convolution.

    Networks see boxes enlarged or shrunk, so that the sizes of their maps say nothing of the box. The deepest map is taken at a
    16th of the sides of the box, each finer one at twice that, and at the full sides the box itself joins in.

    Parameters
    ----------
    channels
        Of each feature map, the finest first; at most five maps.
    """

    width = WIDTHS[0]

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        levels = range(COARSEST + 1 - len(channels), COARSEST + 1)
        self.narrowed = nn.ModuleDict(
            {
                str(level): nn.Conv3d(many, WIDTHS[level], 1)
                for level, many in zip(levels, channels, strict=True)
            }
        )
        self.joined = nn.ModuleDict(
            {str(level): _convolved(self._inputs(level), WIDTHS[level]) for level in range(COARSEST)}
        )
        self.last = _convolved(WIDTHS[0], WIDTHS[0])

    def forward(self, maps: Sequence[Tensor], grey: Tensor) -> Tensor:
        """Turn feature maps, the finest first, and boxes ``(N, 1, D, H, W)`` into ``(N, width, D, H, W)``.

        The grey values of the boxes may have any scale: each box is brought to mean 0 and deviation 1.
        """
        at = dict(zip(self.narrowed, maps, strict=True))
        x = self._taken(COARSEST, at, grey)
        for level in reversed(range(COARSEST)):
            parts = [resized(x, _sides(grey, level))]
            if str(level) in at:
                parts.append(self._taken(level, at, grey))
            if level == 0:
                parts.append(_standard(grey).to(x.dtype))
            x = self.joined[str(level)](torch.cat(parts, dim=1))
        decoded: Tensor = self.last(x)
        return decoded

    def _inputs(self, level: int) -> int:
        own = WIDTHS[level] if str(level) in self.narrowed else 0
        return WIDTHS[level + 1] + own + (level == 0)

    def _taken(self, level: int, at: dict[str, Tensor], grey: Tensor) -> Tensor:
        return resized(self.narrowed[str(level)](at[str(level)]), _sides(grey, level))


def _sides(grey: Tensor, level: int) -> tuple[int, ...]:
    """Return the sides of the box over ``2 ** level``, rounded up."""
    step = 2**level
    return tuple((side + step - 1) // step for side in grey.shape[2:])


def resized(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Turn ``(N, C, d, h, w)`` into ``(N, C, *sides)``, linear between the middles of voxels."""
    return F.interpolate(x, size=list(sides), mode="trilinear", align_corners=False)


def _standard(grey: Tensor) -> Tensor:
    centred = grey - grey.mean((2, 3, 4), keepdim=True)
    return centred / centred.square().mean((2, 3, 4), keepdim=True).sqrt().clamp_min(1e-6)


def _convolved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )
