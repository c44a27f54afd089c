"""What the coordinates count: whether the file, the volumes or the user says so, and whether the volumes agree."""

from collections.abc import Iterator

import numpy as np

from cryoclass.checks.findings import Finding, error, ok, warning
from cryoclass.cutting import TomogramSource
from cryoclass.readings import Spread, spread_of, unit_in
from cryoclass.star.frames import Frame

CORNER = 1.5  # times the width of what the particles lie in
FEWEST = 3  # particles; one or two may well lie in a corner


def check_frame(source: TomogramSource) -> Iterator[Finding]:
    """Say what the volumes tell of the coordinates; nothing where they agree with what the file or the user says.

    An error where several readings put the particles inside and nothing tells which is right; a warning where the volumes
    decided against the likeliest reading, or where all particles lie in a corner that another reading would spread over the
    tomograms.
    """
    reading = source.reading
    if reading.how == "undecided":
        yield _undecided(source)
    elif reading.how == "told":
        yield _told(source)
    elif reading.how == "stated" and (corner := _corner(source)):
        yield corner


def taken_as(source: TomogramSource) -> str:
    """Say what coordinates were taken for."""
    asked = source.settings.coords_angpix
    if asked is not None:
        return f"pixels of {asked:g} A from the first voxel, as you say"
    return source.reading.frame.value


def _told(source: TomogramSource) -> Finding:
    reading = source.reading
    instead = " or ".join(frame.value for frame in reading.others)
    words = (
        f"the coordinates are taken as {taken_as(source)}; as {instead} they would lie outside or in a corner"
    )
    if reading.frame is source.particles.frame:
        return ok("coordinates", words)
    return warning("coordinates", words, "Say it with --coords-angpix where that is wrong.")


def _undecided(source: TomogramSource) -> Finding:
    frames = (source.reading.frame, *source.reading.others)
    units = {frame: unit_in(frame, source.placements[0], source.particles) for frame in frames}
    options = [f"--coords-angpix {unit:g} for {frame.value}" for frame, unit in units.items() if unit]
    return error(
        "coordinates",
        f"the coordinates of {source.particles.path} may count {', or '.join(frame.value for frame in frames)}; the file does "
        "not say which, and where the particles lie does not tell",
        f"Say it: {'; '.join(options)}.",
    )


def _corner(source: TomogramSource) -> Finding | None:
    """Return a warning where all particles lie in the first part of every axis, and another reading spreads them."""
    now = spread_of(source.reading.frame, source.placements, source.particles)
    if now is None or not source.reading.frame.starts_at_first_voxel or len(now.shares) < FEWEST:
        return None
    for frame in (frame for frame in Frame if frame.starts_at_first_voxel):
        other = spread_of(frame, source.placements, source.particles)
        if other is None or not (other.fills and other.inside == 1):
            continue
        wider = _times_wider(other, now)
        if wider >= CORNER:
            unit = unit_in(frame, source.placements[0], source.particles)
            return warning(
                "coordinates",
                f"all {len(now.shares)} particles lie in the first 1/{wider:.3g} of every axis of their tomograms, taken as "
                f"{taken_as(source)}; as {frame.value} they would fill them",
                f"Add --coords-angpix {unit:g} where that is right." if unit else "",
            )
    return None


def _times_wider(other: Spread, now: Spread) -> float:
    return float(np.min(other.reach / np.maximum(now.reach, 1e-9)))
