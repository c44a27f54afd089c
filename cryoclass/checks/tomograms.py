"""The tomograms: whether every name has a volume, and whether the volumes can be read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoclass.checks.findings import Finding, error, failure, ok, warning
from cryoclass.errors import VolumeError
from cryoclass.siblings import tilts_beside
from cryoclass.tomograms import Tomogram, without_volume

LookedUp = tuple[Mapping[str, Tomogram], Sequence[Path]]  # as cryoclass.tomograms.look_up returns
LOOKED_INTO = 20
SHOWN = 4


def check_names(
    names: Sequence[str], looked_up: LookedUp, where: Path | None, *, skip_missing: bool
) -> Iterator[Finding]:
    """Say how many tomogram names have a volume, and the nearest file of the first that has none."""
    found, files = looked_up
    if len(found) == len(names):
        yield ok("tomograms", f"{len(found)} of {len(names)} names have a volume")
        return
    problem = failure("tomograms", without_volume(names, found, where, files))
    if found and skip_missing:
        yield warning("tomograms", problem.words)
    else:
        yield problem


def check_choice(found: Mapping[str, Tomogram]) -> Iterator[Finding]:
    """Of tomograms that can be opened, say which volumes were guessed, and which may be no volumes but tilt series.

    An error where a stack has as many sections as a list of tilts beside it; a header that speaks of images alone is a
    warning, since AreTomo's tomograms have such ones.
    """
    guesses = [f"{name} is {one.paths[0].name}" for name, one in found.items() if one.is_guess]
    if guesses:
        shown = ", ".join(guesses[:SHOWN]) + (f" and {len(guesses) - SHOWN} more" if guesses[SHOWN:] else "")
        yield warning(
            "tomograms",
            f"names that agree with their volumes in a number, or not at all, were taken together: {shown}",
            "Give --tomograms a tomograms.star where that is wrong.",
        )
    if words := series_words(found.values()):
        yield ok("tomograms", words)
    for one in found.values():
        yield from _check_stack(one)


def series_words(tomograms: Iterable[Tomogram]) -> str:
    """Say which tilt series beside tomograms were left alone; empty where there are none."""
    pairs = [(one.series, one.paths[0]) for one in tomograms if one.series is not None]
    if not pairs:
        return ""
    more = f" (and {len(pairs) - 1} more like it)" if pairs[1:] else ""
    return f"{pairs[0][0].name} is the tilt series of {pairs[0][1].name} and is left alone{more}"


def _check_stack(tomogram: Tomogram) -> Iterator[Finding]:
    path = tomogram.paths[0]
    tilts, volume = tilts_beside(path), tomogram.open()
    if tilts is not None and tilts[0] == len(volume.data):
        yield error(
            "tomograms",
            f"{path} has {len(volume.data)} sections, as many as {tilts[1].name} has tilts: it is the tilt series, no tomogram",
            "Give --tomograms the reconstruction.",
        )
    elif volume.is_image_stack:
        yield warning(
            "tomograms",
            f"the header of {path} speaks of a stack of {len(volume.data)} images (space group 0), and it is cut as a volume",
            "Give --tomograms the reconstruction where it is a tilt series.",
        )


def readable(found: Mapping[str, Tomogram]) -> tuple[dict[str, Tomogram], list[Finding]]:
    """Open every volume, and look at a slice of some, spread over the list.

    Returns
    -------
    dict
        The tomograms that can be opened.
    list
        A finding where some cannot, or hold no image.
    """
    good: dict[str, Tomogram] = dict(found)
    problems: list[VolumeError] = []
    looked_into = set(np.linspace(0, len(found) - 1, LOOKED_INTO).astype(int).tolist())
    for position, (name, tomogram) in enumerate(found.items()):
        try:
            data = tomogram.open().data
        except VolumeError as problem:
            problems.append(problem)
            del good[name]
            continue
        if position in looked_into:
            problems.extend(_slice_problem(tomogram, data[len(data) // 2]))
    if not problems:
        return good, []
    first = failure("tomograms", problems[0])
    more = f"; and {len(problems) - 1} more like it" if len(problems) > 1 else ""
    return good, [replace(first, words=first.words + more)]


def _slice_problem(tomogram: Tomogram, middle: np.ndarray) -> list[VolumeError]:
    with np.errstate(invalid="ignore"):  # some NaN complain when their type changes
        voxels = middle.astype(np.float32)
    where = f"{tomogram.paths[0]}, in its middle slice,"
    if not np.isfinite(voxels).all():
        return [VolumeError(f"{where} holds NaN or infinity.", "Compute or copy it again.")]
    if voxels.min() == voxels.max():
        words = f"{where} is constant: every voxel is {voxels.flat[0]:g}."
        return [VolumeError(words, "Compute or copy it again.")]
    return []
