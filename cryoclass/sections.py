"""Thin sections of tomograms with the particles in them: what is read are those sections, never a whole volume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoclass.cutting import Placement, TomogramSource
from cryoclass.errors import VolumeError
from cryoclass.sources import InvertedSource, RescaledSource, Source
from cryoclass.volumes.mrc import open_volume

MOST_SECTIONS = 16  # that are read of one slab
STRIDE = 4  # of the rows that grey values are measured on
_PACKED = (".gz", ".bz2")


@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """The mean of some sections round one height of a tomogram, and the particles whose centres lie there.

    Attributes
    ----------
    name
        The tomogram.
    picture
        Grey values [y, x].
    size
        Width and height in angstroms (x, y).
    height, thickness
        Of its middle over the first section, and of the slab, in angstroms.
    rows
        Row numbers of the particles in it (k,).
    places
        Where they lie (k, 2) x, y in angstroms from the lower left corner.
    radius
        Of the circle that stands for a particle, in angstroms.
    """

    name: str
    picture: NDArray[np.float32]
    size: tuple[float, float]
    height: float
    thickness: float
    rows: NDArray[np.int64]
    places: NDArray[np.float64]
    radius: float


def crops_of(source: Source) -> TomogramSource | None:
    """Return what cuts the boxes out of tomograms; None where they come from files."""
    while isinstance(source, RescaledSource | InvertedSource):
        source = source.source
    return source if isinstance(source, TomogramSource) else None


def slab_of(placement: Placement, box: float, rows: NDArray[np.int64]) -> Slab:
    """Read a slab as thick as half a box round the middle of a tomogram, or, where no particle lies there, round the median one.

    Parameters
    ----------
    placement
        The tomogram and where its particles are.
    box
        Side of a box in angstroms.
    rows
        Row numbers of the particles to show.

    Raises
    ------
    VolumeError
        The volume cannot be read.
    """
    angpix, (_, _, depth) = placement.geometry.angpix, placement.geometry.shape
    shown = np.isin(placement.rows, rows)
    positions = placement.positions[shown]
    half = max(box / angpix / 4, 0.5)
    middle = (depth - 1) / 2
    if len(positions) and not (np.abs(positions[:, 2] - middle) <= half).any():
        middle = float(np.clip(np.sort(positions[:, 2])[len(positions) // 2], 0, depth - 1))
    inside = np.abs(positions[:, 2] - middle) <= half
    first, last = max(0, math.ceil(middle - half)), min(depth - 1, math.floor(middle + half))
    picture = _mean_section(placement, _spread(first, max(first, last)))
    height, width = picture.shape
    return Slab(
        name=placement.tomogram.name,
        picture=picture,
        size=(width * angpix, height * angpix),
        height=(middle + 0.5) * angpix,
        thickness=(max(first, last) - first + 1) * angpix,
        rows=placement.rows[shown][inside],
        places=(positions[inside, :2] + 0.5) * angpix,
        radius=0.375 * box,
    )


def grey_values(source: TomogramSource) -> dict[str, tuple[float, float]]:
    """Return mean and deviation of every fourth row of the middle section of each tomogram, as far as it can be read on its own.

    Compressed volumes would have to be unpacked for it, and are left out.
    """
    found = {}
    for placement in source.placements:
        if any(path.suffix in _PACKED for path in placement.tomogram.paths):
            continue
        try:
            section = _section(placement, placement.geometry.shape[2] // 2, STRIDE)
        except VolumeError:
            continue  # the boxes that could not be cut say so
        if np.isfinite(section).all():
            found[placement.tomogram.name] = (float(section.mean()), float(section.std()))
    return found


def _spread(first: int, last: int) -> list[int]:
    """Return sections from the first to the last one, evenly where they are many."""
    count = min(last - first + 1, MOST_SECTIONS)
    sections: list[int] = np.linspace(first, last, count).round().astype(int).tolist()
    return sections


def _mean_section(placement: Placement, sections: Sequence[int]) -> NDArray[np.float32]:
    """Add sections up one by one, so that only one is in memory at a time."""
    total = _section(placement, sections[0], 1)
    for number in sections[1:]:
        total += _section(placement, number, 1)
    return np.asarray(np.nan_to_num(total / len(sections), posinf=0, neginf=0), np.float32)


def _section(placement: Placement, number: int, stride: int) -> NDArray[np.float32]:
    """Read every so many rows of a section [y, x]; half volumes are added up."""
    halves = [open_volume(path).voxels[number, ::stride] for path in placement.tomogram.paths]
    total = halves[0].astype(np.float32)
    for half in halves[1:]:
        total += half
    return total
