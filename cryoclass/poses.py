"""How particles lie in their boxes, from the angles and origins of a table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoclass.cutting import TomogramSource
from cryoclass.particles import Particles
from cryoclass.sources import RescaledSource, Source
from cryoclass.star.frames import rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """How each particle of a table lies in its box.

    Attributes
    ----------
    rotations
        (n, 3, 3) in x, y, z; they take a vector of the reference to the same vector in the box.
    offsets
        Where particles lie from the centre of the box (n, 3) x, y, z in angstroms.
    """

    rotations: NDArray[np.float64]
    offsets: NDArray[np.float64]


def poses_of(table: Particles, source: Source) -> Poses | None:
    """Return how the particles of a table lie in the boxes of a source.

    Returns
    -------
    Poses or None
        None where the table has no angles, or nobody knows what they count from (see :func:`axes_unknown`).

    Raises
    ------
    StarError
        An angle or an origin is no number.
    """
    if table.angles is None or axes_unknown(table, source):
        return None
    turns, cut = rotations(table.angles), _cut_source(source)
    if cut is None:
        return Poses(rotations=turns, offsets=table.box_offsets)
    if (
        table.orientation is not None
    ):  # angles count from the subtomogram's axes, boxes are cut along the tomogram's
        turns = rotations(table.orientation) @ turns
    return Poses(rotations=turns, offsets=_offsets(cut))


def axes_unknown(table: Particles, source: Source) -> bool:
    """Whether boxes are files and the table has rotated subtomograms.

    RELION writes such boxes along the subtomogram's axes, ``extract`` along the tomogram's, and no file says which it is.
    """
    turned = table.orientation is not None and bool(table.orientation.any())
    return turned and _cut_source(source) is None


def _cut_source(source: Source) -> TomogramSource | None:
    """Return what cuts the boxes of a source out of tomograms; None where they come from files."""
    inner = source.source if isinstance(source, RescaledSource) else source
    return inner if isinstance(inner, TomogramSource) else None


def _offsets(cut: TomogramSource) -> NDArray[np.float64]:
    """Return where particles lie in boxes that are cut: what rounding left over, and origins that were not subtracted."""
    offsets = np.zeros((len(cut), 3))
    for placement in cut.placements:
        offsets[placement.rows] = placement.remainders
    origins = cut.particles.origins
    return offsets if cut.settings.shifts or origins is None else offsets - origins
