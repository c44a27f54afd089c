"""The particle table: what kind of file it is, what its coordinates count, and how many of each class it holds."""

from collections import Counter
from collections.abc import Iterator

from cryoclass.checks.findings import Finding, ok, plural, unknown
from cryoclass.particles import Particles
from cryoclass.settings import Cutting

SHOWN_CLASSES = 8


def check_table(particles: Particles) -> Iterator[Finding]:
    """Say the dialect, and count rows and tomograms."""
    tomograms = len(set(particles.tomograms))
    where = f" in {plural(tomograms, 'tomogram')}" if particles.names_tomograms else ""
    yield ok("table", f"{particles.dialect}, {plural(len(particles), 'particle')}{where}")


def check_coordinates(particles: Particles, cutting: Cutting) -> Iterator[Finding]:
    """Say frame and unit of the coordinates, and read them all."""
    if particles.frame is None:
        yield ok("coordinates", "none; boxes can only come from files")
        return
    assert len(particles.coordinates)  # reading raises where a cell is no number  # noqa: S101
    words, told = frame_words(particles, cutting), cutting.coords_angpix is not None or not particles.rivals
    if particles.origins is not None and particles.origins.any():
        words += ", minus the refined origins" if cutting.shifts else "; refined origins are ignored"
    yield ok("coordinates", words) if told else unknown("coordinates", words)


def frame_words(particles: Particles, cutting: Cutting) -> str:
    """Say what the coordinates of a table that has some are taken for."""
    if cutting.coords_angpix is not None:
        return f"pixels of {cutting.coords_angpix:g} A from the first voxel, as you say"
    return particles.frames_in_words


def label_words(particles: Particles, asked: str | None) -> str:
    """Say how many labels each class has; empty where there are none to speak of, and none were asked for."""
    counts = count_labels(particles, asked)
    column = particles.label_column(asked) if counts or asked is not None else ""
    if not column or (asked is None and column == "rlnClassNumber" and len(counts) == 1):  # of a refinement
        return ""
    words = f"{column}: {_count_words(counts) or 'empty'}"
    without = len(particles) - counts.total()
    return words + (f"; {without} without" if counts.total() > 0 and without else "")


def count_labels(particles: Particles, asked: str | None) -> Counter[str]:
    """Count the labels of each class; empty where the file has no label column and none was asked for."""
    if asked is None and not particles.has_label_column:
        return Counter()
    column = particles.label_column(asked)
    return Counter(label for label in particles.labels(column) if label is not None)


def _count_words(counts: Counter[str]) -> str:
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} ({count})" for name, count in common[:SHOWN_CLASSES])
    more = len(common) - SHOWN_CLASSES
    return shown + (f" and {more} more classes" if more > 0 else "")
