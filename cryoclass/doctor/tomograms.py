"""The tomograms: whether every name has a volume, and whether the volumes can be read."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoclass.doctor.findings import Finding, error, ok, warning
from cryoclass.errors import VolumeError
from cryoclass.star.names import nearest
from cryoclass.tomograms import Tomogram

SHOWN = 3
LOOKED_INTO = 20


def check_names(
    names: Sequence[str], found: Mapping[str, Tomogram], files: Sequence[Path], *, skip_missing: bool
) -> Iterator[Finding]:
    """Say how many tomogram names have a volume, and the nearest file of those that have none."""
    missing = [name for name in names if name not in found]
    words = f"{len(found)} of {len(names)} names have a volume"
    if not missing:
        yield ok("tomograms", words)
        return
    words += f"; none for {'; '.join(_with_nearest(name, files) for name in missing[:SHOWN])}"
    if len(missing) > SHOWN:
        words += f"; and {len(missing) - SHOWN} more"
    if found and skip_missing:
        yield warning("tomograms", words)
    else:
        skip = ", or --skip-missing to go on without them" if found else ""
        yield error("tomograms", words, f"Give the right --tomograms{skip}.")


def _with_nearest(name: str, files: Sequence[Path]) -> str:
    near = nearest(name, files)
    return (name or "particles without a tomogram name") + (f" (nearest: {near})" if near else "")


def readable(found: Mapping[str, Tomogram]) -> tuple[dict[str, Tomogram], list[Finding]]:
    """Open every volume, and look at a slice of some, spread over the list.

    Returns
    -------
    dict
        The tomograms that can be opened.
    list
        A finding where some cannot, or hold no image.
    """
    good, problems = dict(found), []
    looked_into = set(np.linspace(0, len(found) - 1, LOOKED_INTO).astype(int).tolist())
    for position, (name, tomogram) in enumerate(found.items()):
        try:
            data = tomogram.open().data
        except VolumeError as problem:
            problems.append(str(problem).removesuffix("."))
            del good[name]
            continue
        if position in looked_into:
            problems.extend(_slice_problem(tomogram, data[len(data) // 2]))
    if not problems:
        return good, []
    more = f"; and {len(problems) - 1} more like it" if len(problems) > 1 else ""
    return good, [error("tomograms", problems[0] + more, "Compute or copy them again.")]


def _slice_problem(tomogram: Tomogram, middle: np.ndarray) -> list[str]:
    with np.errstate(invalid="ignore"):  # some NaN complain when their type changes
        voxels = middle.astype(np.float32)
    if not np.isfinite(voxels).all():
        return [f"{tomogram.paths[0]} holds NaN or infinity in its middle slice"]
    if voxels.min() == voxels.max():
        return [f"{tomogram.paths[0]} is constant in its middle slice: every voxel is {voxels.flat[0]:g}"]
    return []
