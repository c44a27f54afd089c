"""Whether the boxes lie inside their tomograms."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cryoclass.checks.findings import Finding, error, ok, warning
from cryoclass.checks.frame import taken_as
from cryoclass.cutting import Placement, TomogramSource
from cryoclass.readings import spread_of, unit_in
from cryoclass.star.frames import Frame

MOST_OUTSIDE = 0.5  # more outside than that, and the coordinates were misunderstood


@dataclass(frozen=True, kw_only=True)
class Inside:
    """How the particles of one tomogram lie, in counts.

    Attributes
    ----------
    tomogram
        Its name.
    particles
        How many there are.
    positions_outside
        Particles that are themselves outside.
    sticking_out
        Boxes that are partly outside.
    boxes_outside
        Boxes that are wholly outside.
    """

    tomogram: str
    particles: int
    positions_outside: int
    sticking_out: int
    boxes_outside: int


def count_inside(placement: Placement) -> Inside:
    """Count where the boxes of one tomogram lie; the same rules as :func:`cryoclass.volumes.crop.overlap`."""
    shape, cut = np.array(placement.geometry.shape), placement.plan.cut
    starts = placement.centres - cut // 2
    within = ((starts >= 0) & (starts + cut <= shape)).all(axis=1)
    outside = ((starts + cut <= 0) | (starts >= shape)).any(axis=1)
    return Inside(
        tomogram=placement.tomogram.name,
        particles=len(placement.rows),
        positions_outside=int((~_are_inside(placement.positions, placement)).sum()),
        sticking_out=int((~within & ~outside).sum()),
        boxes_outside=int(outside.sum()),
    )


def check_inside(source: TomogramSource) -> Iterator[Finding]:
    """Say which share of particles and boxes lies inside, and in which tomogram it is worst.

    Where most lie outside, frame or unit of the coordinates must have been misunderstood: an error that names them, and a
    frame in which the particles would lie inside.
    """
    counts = [count_inside(placement) for placement in source.placements]
    total, outside = sum(c.particles for c in counts), sum(c.boxes_outside for c in counts)
    positions = sum(c.positions_outside for c in counts)
    sticking = sum(c.sticking_out + c.boxes_outside for c in counts)
    words = _inside_words(source, counts)
    if outside > MOST_OUTSIDE * total:
        yield _wrong_frame(source, f"{outside} of {total} boxes would lie outside their tomograms")
    elif positions > MOST_OUTSIDE * total:
        yield _wrong_frame(source, f"{positions} of {total} particles would lie outside their tomograms")
    elif outside:
        skipped = f"{outside} of {total} boxes lie outside their tomograms and will be skipped"
        yield warning(
            "inside", f"{skipped}; {words}", "A few may be picks at the rim; many mean a wrong frame."
        )
    elif positions:
        yield warning(
            "inside", words, "A few may be picks at the rim; many mean a wrong frame or pixel size."
        )
    elif sticking > MOST_OUTSIDE * total:
        yield warning("inside", words, _edge_words(source))
    else:
        yield ok("inside", words)


def _inside_words(source: TomogramSource, counts: list[Inside]) -> str:
    total, positions = sum(c.particles for c in counts), sum(c.positions_outside for c in counts)
    sticking = sum(c.sticking_out + c.boxes_outside for c in counts)
    words = f"{_percent(total - positions, total)} of {total} particles lie in their tomograms"
    if not sticking:
        return words
    worst = max(counts, key=lambda c: (c.sticking_out + c.boxes_outside) / max(c.particles, 1))
    return (
        f"{words}; boxes of {source.box} pixels that stick out: {sticking}, worst {worst.tomogram}: "
        f"{worst.sticking_out + worst.boxes_outside} of {worst.particles}"
    )


def _edge_words(source: TomogramSource) -> str:
    what = "repeat the outermost voxels" if source.settings.edge == "replicate" else "are left out"
    return f"--edge {source.settings.edge}: boxes partly outside {what}."


def _wrong_frame(source: TomogramSource, words: str) -> Finding:
    taken, better = taken_as(source), better_frame(source)
    instead = f". Taken as {better.value}, they would lie inside" if better else ""
    return error(
        "inside",
        f"{words}. Their coordinates were taken as {taken} ({source.particles.dialect}){instead}",
        _way_out(source, better),
    )


def better_frame(source: TomogramSource) -> Frame | None:
    """Return the frame in which nearly all particles lie inside and spread widest; ``None`` where no frame fits."""
    scores = {frame: _score(source, frame) for frame in Frame if frame is not source.reading.frame}
    best = max(scores, key=lambda frame: scores[frame])
    return best if scores[best] > 0 else None


def _score(source: TomogramSource, frame: Frame) -> float:
    """Return how much of the volumes the particles span in a frame; 0 where they do not lie inside."""
    if not frame.starts_at_first_voxel and (source.particles.coordinates >= 0).all():
        return 0
    spread = spread_of(frame, source.placements, source.particles)
    if spread is None or not spread.fits:
        return 0
    sizes = [len(placement.rows) for placement in source.placements]
    parts = np.split(spread.shares, np.cumsum(sizes)[:-1])
    return float(np.mean([np.ptp(part, axis=0).mean() for part in parts]))


def _are_inside(positions: np.ndarray, placement: Placement) -> np.ndarray:
    return np.asarray(
        ((positions > -0.5) & (positions < np.array(placement.geometry.shape) - 0.5)).all(axis=1)
    )


def _way_out(source: TomogramSource, better: Frame | None) -> str:
    angpix = unit_in(better, source.placements[0], source.particles) if better else None
    if angpix:
        return f"Say what they count with --coords-angpix {angpix:g}."
    if better:
        return "Write them in the columns that belong to that frame."
    return "Give the tomograms that they were picked in, or say their pixel size with --coords-angpix."


def _percent(part: int, total: int) -> str:
    if part == total:
        return "all"
    return f"{100 * part / total:.1f} %"
