"""What coordinates count: by the file where it says so, else by the volumes that they must lie in.

Coordinates in too small a unit all lie inside, in a corner of the tomogram, and look right. So a reading that the file
leaves open is taken only where it is the only one that puts the particles inside, or the only one in which they fill
their tomograms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryoclass.errors import ParticleError
from cryoclass.particles import Particles
from cryoclass.settings import Extraction
from cryoclass.star.frames import Frame, Geometry, affine
from cryoclass.tomograms import Tomogram

INSIDE = 0.9  # of the particles
FILLED = 0.5  # of the width in x and in y; particles in thin samples lie in few of the sections
SAME = 0.5  # voxels between two readings that come to the same

How = Literal["said", "stated", "told", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The particles of one tomogram: rows (m,) of the table, and the sizes of the volume."""

    tomogram: Tomogram
    rows: np.ndarray
    geometry: Geometry


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the coordinates of a table count.

    Attributes
    ----------
    frame
        That.
    how
        The user ``said`` it, the file ``stated`` it, the volumes ``told`` it, or it is ``undecided``.
    others
        What else the file would allow.
    """

    frame: Frame
    how: How
    others: tuple[Frame, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How particles lie in their tomograms under a reading.

    Attributes
    ----------
    positions
        Voxel indices (n, 3) x, y, z of all, site by site.
    shapes
        Voxels of the tomogram of each (n, 3).
    """

    positions: np.ndarray
    shapes: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The positions in widths of the tomogram: 0 to 1 is inside, from outer side to outer side."""
        return np.asarray((self.positions + 0.5) / self.shapes)

    @property
    def inside(self) -> float:
        """Share of the particles that lie inside."""
        return float(_are_inside(self.shares).mean())

    @property
    def reach(self) -> np.ndarray:
        """How far from the first voxel the particles reach, in widths of the tomogram, along x, y and z."""
        return np.asarray((self.positions / self.shapes).max(axis=0))

    @property
    def fits(self) -> bool:
        """Whether nearly all lie inside."""
        return self.inside >= INSIDE

    @property
    def fills(self) -> bool:
        """Whether they reach beyond the first half in x and in y."""
        within = self.shares[_are_inside(self.shares)]
        return self.fits and bool((within[:, :2].max(axis=0) > FILLED).all())


def sites_of(particles: Particles, tomograms: Mapping[str, Tomogram], angpix: float | None) -> list[Site]:
    """Return the tomograms with the rows of their particles; ``angpix`` is the voxel size, where the user says it.

    Raises
    ------
    ParticleError, VolumeError
        A volume cannot be read, or its voxel size is not known.
    """
    rows_of = _rows_by_name(particles.tomograms)
    return [
        Site(tomogram=tomogram, rows=rows_of[name], geometry=tomogram.geometry(angpix))
        for name, tomogram in tomograms.items()
    ]


def positions_in(
    frame: Frame, site: Site, particles: Particles, image_angpix: float | None = None
) -> np.ndarray:
    """Return where the particles of a site are (m, 3) x, y, z in voxels, if their coordinates count ``frame``.

    Parameters
    ----------
    frame
        What they count.
    site, particles
        Which.
    image_angpix
        Pixel size in angstroms that the coordinates count, where the user says it; else the file's.

    Raises
    ------
    ParticleError
        A size that the frame needs is unknown.
    """
    image = particles.named_angpix if frame is Frame.NAMED_PIXELS else particles.angpix
    unbinned = particles.tilt_series_angpix
    to_voxel = affine(
        frame,
        site.geometry,
        image_angpix or (None if image is None else image[site.rows]),
        None if unbinned is None else unbinned[site.rows],
    )
    return to_voxel.voxel(particles.coordinates[site.rows])


def spread_of(frame: Frame, sites: Sequence[Site], particles: Particles) -> Spread | None:
    """Return how particles lie under a reading; ``None`` where a size that it needs is unknown."""
    try:
        found = [positions_in(frame, site, particles) for site in sites]
    except ParticleError:
        return None
    shapes = [np.full(p.shape, site.geometry.shape) for p, site in zip(found, sites, strict=True)]
    return Spread(positions=np.concatenate(found), shapes=np.concatenate(shapes))


def unit_in(frame: Frame, site: Site, particles: Particles) -> float | None:
    """Return how many angstroms a coordinate counts in a frame that starts at the first voxel; ``None`` elsewhere."""
    row, unbinned = site.rows[0], particles.tilt_series_angpix
    image = particles.named_angpix if frame is Frame.NAMED_PIXELS else particles.angpix
    match frame:
        case Frame.ANGSTROMS:
            return 1.0
        case Frame.TOMOGRAM_PIXELS:
            return site.geometry.angpix
        case Frame.TILT_SERIES_PIXELS:
            return site.geometry.tilt_series_angpix if unbinned is None else float(unbinned[row])
        case Frame.IMAGE_PIXELS | Frame.NAMED_PIXELS:
            return None if image is None else float(image[row])
    return None


def read_frame(particles: Particles, sites: Sequence[Site], settings: Extraction) -> Reading:
    """Decide what the coordinates of a table count.

    Parameters
    ----------
    particles
        A table with coordinates.
    sites
        Where its particles lie.
    settings
        Of them, ``coords_angpix`` is what the user says.

    Raises
    ------
    ParticleError
        The table has no coordinates.
    """
    frames = particles.frames
    if settings.coords_angpix is not None:
        return Reading(frame=Frame.IMAGE_PIXELS, how="said")
    if len(frames) == 1:
        return Reading(frame=frames[0], how="stated")
    known = {frame: spread for frame in frames if (spread := spread_of(frame, sites, particles))}
    complete = len(known) == len(frames)
    if complete and len(_distinct(known)) == 1:  # such as tomograms that are not binned
        return Reading(frame=frames[0], how="stated")
    fitting = _distinct({frame: spread for frame, spread in known.items() if spread.fits})
    if not fitting:  # that they lie outside, or that a size is missing, is an error of its own
        return Reading(frame=frames[0], how="stated")
    filling = [frame for frame, spread in fitting.items() if spread.fills]
    alone = complete and len(fitting) == 1 and not _is_doubtful(*next(iter(fitting.items())))
    only = list(fitting) if alone else filling
    if len(only) == 1:
        return Reading(
            frame=only[0], how="told", others=tuple(frame for frame in known if frame is not only[0])
        )
    first = next(iter(fitting))
    return Reading(
        frame=first, how="undecided", others=tuple(frame for frame in frames if frame is not first)
    )


def _is_doubtful(frame: Frame, spread: Spread) -> bool:
    """Whether a reading may be alone only because the right pixel is none of those known.

    Pixels of any other size lie in a corner when they are taken for angstroms.
    """
    return frame is Frame.ANGSTROMS and bool((spread.reach[:2] <= FILLED).all())


def _distinct(spreads: Mapping[Frame, Spread]) -> dict[Frame, Spread]:
    """Return readings without those that come to the same as an earlier one."""
    kept: dict[Frame, Spread] = {}
    for frame, spread in spreads.items():
        if not any(np.abs(spread.positions - other.positions).max() <= SAME for other in kept.values()):
            kept[frame] = spread
    return kept


def _are_inside(shares: np.ndarray) -> np.ndarray:
    return np.asarray(((shares > 0) & (shares < 1)).all(axis=1))


def _rows_by_name(names: Sequence[str]) -> dict[str, np.ndarray]:
    distinct, codes = np.unique(np.array(names), return_inverse=True)
    order, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))
    return dict(zip(distinct.tolist(), np.split(order, ends[:-1]), strict=True))
