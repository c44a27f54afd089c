"""Voxels by row number, whatever they come from: the protocol, the ways to combine, and the one loop that reads many."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cryoclass.errors import ParticleError, VolumeError
from cryoclass.volumes.crop import crop
from cryoclass.volumes.pixels import agree
from cryoclass.volumes.rescale import apply_rescale, plan_rescale


class Source(Protocol):
    """Voxels by row number.

    Attributes
    ----------
    angpix
        Pixel size of the boxes in angstroms.
    box
        Side of the boxes in pixels.
    order
        Row numbers in the order that reads fastest.
    """

    angpix: float
    box: int
    order: np.ndarray

    def __len__(self) -> int:
        """Return the number of particles."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32.

        Raises
        ------
        VolumeError
            This particle has no usable box; the message says why.
        """
        ...


class RescaledSource:
    """Boxes of another source, brought to another box and pixel size.

    What the new box needs beyond the old one repeats its outermost voxels.

    Parameters
    ----------
    source
        Where the boxes come from.
    box, angpix
        Side in pixels and pixel size in angstroms that are wanted; the pixel size is met within 0.1 %.
    """

    def __init__(self, source: Source, box: int, angpix: float) -> None:
        self.source, self.order = source, source.order
        self.plan = plan_rescale(box, source.angpix, angpix)
        self.box, self.angpix = box, self.plan.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        middle = self.source.box // 2
        wider = crop(self.source.read(index), (middle, middle, middle), self.plan.cut)
        return np.ascontiguousarray(apply_rescale(wider, self.plan))


class InvertedSource:
    """Boxes of another source with their contrast flipped."""

    def __init__(self, source: Source) -> None:
        self.source, self.order, self.box, self.angpix = source, source.order, source.box, source.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        return -self.source.read(index)


class JoinedSource:
    """Boxes of several sources, one after the other.

    Raises
    ------
    ParticleError
        Boxes or pixel sizes differ.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.order = np.concatenate([s.order + start for s, start in zip(sources, self.starts, strict=False)])
        self.box, self.angpix = sources[0].box, sources[0].angpix
        for other in sources[1:]:
            if other.box != self.box or not agree(other.angpix, self.angpix):
                raise ParticleError(
                    f"the files' boxes differ: {self.box} pixels of {self.angpix:.4g} A, and {other.box} pixels of "
                    f"{other.angpix:.4g} A.",
                    "Extract them with the same --box and --angpix.",
                )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[which].read(index - int(self.starts[which]))


def mean_of(source: Source, count: int = 100) -> np.ndarray:
    """Return the mean ``[z, y, x]`` of some boxes, spread over the table; bad ones are passed over."""
    rows = source.order[np.unique(np.linspace(0, len(source.order) - 1, count).astype(int))]
    total, read = np.zeros((source.box,) * 3), 0
    for row in rows.tolist():
        try:
            total += source.read(row)
        except VolumeError:
            continue
        read += 1
    return np.asarray(total / max(read, 1), dtype=np.float32)
