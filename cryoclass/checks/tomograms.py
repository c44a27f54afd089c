"""The tomograms: whether every name has a volume, and whether the volumes can be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoclass.checks.findings import Finding, failure, ok, warning
from cryoclass.errors import VolumeError
from cryoclass.tomograms import Tomogram, without_volume

LookedUp = tuple[Mapping[str, Tomogram], Sequence[Path]]  # as cryoclass.tomograms.look_up returns
LOOKED_INTO = 20


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
