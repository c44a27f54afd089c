"""From a backbone's feature maps back to the grid of the box: what masks and densities are read from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 32, 64, 96)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the box's sides. Nearly all of the work is at the first."""

GREY_WIDTH = 16  # channels in which the box joins: it has 8 voxels for each place at half its sides
FOLD = 2
COARSEST = len(WIDTHS)


class Decoder(nn.Module, ABC):
    """What brings feature maps to the grid of the box.

    Attributes
    ----------
    width
        Channels of what comes out.
    fold
        How many voxels along each side one place of the map that comes out stands for; heads tell them apart.
    """

    width: ClassVar[int]
    fold: ClassVar[int] = 1

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], grey: Tensor) -> Tensor:
        """Turn feature maps, the finest first, and boxes ``(N, 1, D, H, W)`` into ``(N, width, d, h, w)``.

        d is D over ``fold``, rounded up; so are h and w.
        """


class BoxDecoder(Decoder):
    """Feature maps, the deepest first, each brought to its share of the box's own sides and joined by a convolution.

    Networks see boxes enlarged or shrunk, so that the sizes of their maps say nothing of the box. The deepest map is taken at a
    16th of the sides of the box, each finer one at twice that, up to half the sides. There the box itself joins in, voxel by
    voxel; the eight voxels of each place are told apart by the heads, as by a convolution on the box's own grid (Shi et al. 2016,
    arXiv:1609.05158), which would take four times as long for the same.

    Parameters
    ----------
    channels
        Of each feature map, the finest first; at most five maps. The finest of five is left out: it has the sides of the box.
    """

    width = WIDTHS[0]
    fold = FOLD

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        coarse = channels[-COARSEST:]
        levels = range(COARSEST + 1 - len(coarse), COARSEST + 1)
        self.narrowed = nn.ModuleDict(
            {
                str(level): nn.Conv3d(many, _width(level), 1)
                for level, many in zip(levels, coarse, strict=True)
            }
        )
        self.seen = nn.Conv3d(1, GREY_WIDTH, 3, stride=FOLD, padding=1)
        self.joined = nn.ModuleDict(
            {str(level): _convolved(self._inputs(level), _width(level)) for level in range(1, COARSEST)}
        )
        self.last = _convolved(self.width, self.width)

    def forward(self, maps: Sequence[Tensor], grey: Tensor) -> Tensor:
        """Turn feature maps, the finest first, and boxes ``(N, 1, D, H, W)`` into ``(N, width, D / 2, H / 2, W / 2)``, rounded up.

        The grey values of the boxes may have any scale: each box is brought to mean 0 and deviation 1.
        """
        at = dict(zip(self.narrowed, maps[-COARSEST:], strict=True))
        x = self._taken(COARSEST, at, grey)
        for level in reversed(range(1, COARSEST)):
            parts = [resized(x, _sides(grey, level))]
            if str(level) in at:
                parts.append(self._taken(level, at, grey))
            if level == 1:
                parts.append(self.seen(_standard(grey).to(x.dtype)))
            x = self.joined[str(level)](torch.cat(parts, dim=1))
        decoded: Tensor = self.last(x)
        return decoded

    def _inputs(self, level: int) -> int:
        own = _width(level) if str(level) in self.narrowed else 0
        return _width(level + 1) + own + GREY_WIDTH * (level == 1)

    def _taken(self, level: int, at: dict[str, Tensor], grey: Tensor) -> Tensor:
        return resized(self.narrowed[str(level)](at[str(level)]), _sides(grey, level))


def _width(level: int) -> int:
    return WIDTHS[level - 1]


def _sides(grey: Tensor, level: int) -> tuple[int, ...]:
    """Return the sides of the box over ``2 ** level``, rounded up."""
    step = 2**level
    return tuple((side + step - 1) // step for side in grey.shape[2:])


def resized(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Turn ``(N, C, d, h, w)`` into ``(N, C, *sides)``, linear between the middles of voxels."""
    return F.interpolate(x, size=list(sides), mode="trilinear", align_corners=False)


def unfolded(x: Tensor, fold: int, sides: Sequence[int]) -> Tensor:
    """Turn ``(N, d, h, w, fold ** 3)`` into volumes ``(N, *sides)``: each place becomes a cube of ``fold ** 3`` voxels, z first.

    Where the sides are no multiple of ``fold``, the last places reach over the end, and are cut.
    """
    depth, height, width = sides
    cubes = x.unflatten(-1, (fold, fold, fold))  # (N, d, h, w, z, y, x)
    volumes: Tensor = cubes.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return volumes[:, :depth, :height, :width]


def _standard(grey: Tensor) -> Tensor:
    centred = grey - grey.mean((2, 3, 4), keepdim=True)
    return centred / centred.square().mean((2, 3, 4), keepdim=True).sqrt().clamp_min(1e-6)


def _convolved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )
