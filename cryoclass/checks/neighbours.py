"""Particles that lie closer together than a particle is large: picked twice, mostly."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

from cryoclass.checks.findings import Finding, ok, warning
from cryoclass.cutting import Placement
from cryoclass.particles import Particles
from cryoclass.settings import Cutting
from cryoclass.star.frames import Frame


def placed(placements: Sequence[Placement]) -> dict[str, np.ndarray]:
    """Return the positions (m, 3) in angstroms of the particles of each tomogram."""
    return {p.tomogram.name: p.positions * p.geometry.angpix for p in placements}


def from_table(particles: Particles, cutting: Cutting) -> dict[str, np.ndarray]:
    """Return positions as :func:`placed` does, up to a shift, from the table alone.

    Empty where a pixel size is not known without the tomograms.
    """
    angstroms = cutting.coords_angpix or unit_of(particles)
    if angstroms is None:
        return {}
    positions = particles.coordinates * np.reshape(angstroms, (-1, 1))
    if cutting.shifts and particles.origins is not None:
        positions = positions - particles.origins
    names, numbers = np.unique(np.array(particles.tomograms), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(positions[order], np.cumsum(np.bincount(numbers))[:-1])
    return dict(zip(names.tolist(), parts, strict=True))


def unit_of(particles: Particles) -> np.ndarray | float | None:
    """Return how many angstroms a coordinate of each row counts; ``None`` where the table alone does not say it."""
    if particles.rivals:
        return None
    match particles.frame:
        case Frame.CENTRED_ANGSTROMS | Frame.PICKED_ANGSTROMS | Frame.ANGSTROMS:
            return 1.0
        case Frame.IMAGE_PIXELS:
            return particles.angpix
        case Frame.TILT_SERIES_PIXELS:
            return particles.tilt_series_angpix
        case Frame.TOMOGRAM_PIXELS:
            return particles.micrograph_angpix
    return None


def check_neighbours(positions: dict[str, np.ndarray], diameter: float, source: str) -> Iterator[Finding]:
    """Count the particles that have another one closer than a diameter.

    Parameters
    ----------
    positions
        (m, 3) in angstroms, by tomogram.
    diameter
        In angstroms.
    source
        Where the diameter comes from, in words.
    """
    nearest = {name: _nearest(points) for name, points in positions.items() if len(points) > 1}
    close = sum(int((distances < diameter).sum()) for distances in nearest.values())
    if not close:
        yield ok("duplicates", f"no two particles within {diameter:.0f} A ({source})")
        return
    name = min(nearest, key=lambda name: float(nearest[name].min()))
    total = sum(len(points) for points in positions.values())
    where = f" in {name}" if name else ""
    yield warning(
        "duplicates",
        f"{close} of {total} particles have another within {diameter:.0f} A ({source}); the closest pair, "
        f"{nearest[name].min():.1f} A{where}",
        "Doubles in training and test make scores too good: take them out, or say how large a particle is with "
        "--diameter.",
    )


def _nearest(points: np.ndarray) -> np.ndarray:
    """Return the distance (m,) from each point to the next one."""
    distances, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distances[:, 1])
