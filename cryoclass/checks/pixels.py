"""Pixel sizes: what the STAR file, the volumes' headers and the model say, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from cryoclass.checks.findings import Finding, error, ok, warning
from cryoclass.cutting import TomogramSource
from cryoclass.errors import VolumeError
from cryoclass.images import FileSource
from cryoclass.star.frames import Frame
from cryoclass.volumes.mrc import Volume, open_volume
from cryoclass.volumes.pixels import TOLERANCE, agree

HEADERS = 20

T = TypeVar("T")


def check_files(source: FileSource, asked: float | None) -> Iterator[Finding]:
    """Compare STAR file and headers for boxes in files; what the user says overrules both.

    Parameters
    ----------
    source
        The boxes.
    asked
        Pixel size that the user says, in angstroms.
    """
    table, headers = source.particles.angpix, list(_headers(_file_volumes(source)))
    words = _words([("STAR file", table), ("headers", headers)])
    odd = next((header for header in headers if _differ([source.angpix, header])), None)
    if asked is not None:
        yield ok("pixel size", f"{words}; {asked:.4g} A, as you say")
    elif odd is not None:
        said = "says" if table is not None else "is silent; its first volume says"
        yield error(
            "pixel size",
            f"{source.particles.path} {said} {source.angpix:g} A per pixel, but its volumes' headers {odd:g} A",
            "Say which is right with --angpix.",
        )
    else:
        yield ok("pixel size", words)


def check_tomograms(source: TomogramSource, *, asked: bool) -> Iterator[Finding]:
    """Compare STAR file and headers for boxes that are cut out of tomograms.

    Parameters
    ----------
    source
        The boxes.
    asked
        Whether the user said the voxel size of the tomograms, or of the coordinates.
    """
    voxels = sorted(
        {p.geometry.angpix for p in source.placements}
    )  # the headers', unless the user says another
    named, table = _of_tomogram(source)
    words = _words([(named, table), ("voxels" if asked else "headers", voxels)])
    words += f"; boxes are cut at {source.angpix:.4g} A"
    if not asked and table is not None and _differ([*table, *voxels]):
        level = warning if named == "STAR file's images" else error
        yield level(
            "pixel size",
            words,
            "Say the size of the voxels with --tomogram-angpix, or what the coordinates count with --coords-angpix.",
        )
    elif max(voxels) > source.angpix * (1 + TOLERANCE):
        yield warning(
            "pixel size", words, "Boxes finer than their tomogram hold no more detail than it does."
        )
    else:
        yield ok("pixel size", words)


def _of_tomogram(source: TomogramSource) -> tuple[str, np.ndarray | None]:
    """Return what the STAR file says of the tomograms' pixel size, and whether it speaks of them or of the images.

    Only where coordinates count pixels of the tomogram must the two agree; elsewhere a difference is nothing odd.
    """
    particles = source.particles
    micrograph = particles.micrograph_angpix
    counts_tomogram = source.reading.frame is Frame.TOMOGRAM_PIXELS
    if micrograph is not None and (micrograph > 0).all() and counts_tomogram:
        return "STAR file", np.unique(micrograph)
    images = None if particles.angpix is None else np.unique(particles.angpix)
    return "STAR file's images", images if counts_tomogram else None


def _differ(sizes: Sequence[float]) -> bool:
    return not agree(*sizes)


def _words(values: Sequence[tuple[str, Sequence[float] | np.ndarray | None]]) -> str:
    return ", ".join(f"{name} {_range(sizes)}" for name, sizes in values if sizes is not None)


def _range(sizes: Sequence[float] | np.ndarray) -> str:
    if not len(sizes):
        return "silent"
    small, large = min(sizes), max(sizes)
    return f"{small:.4g} A" if not _differ([small, large]) else f"{small:.4g} to {large:.4g} A"


def _headers(volumes: Iterator[Volume]) -> Iterator[float]:
    return (volume.angpix for volume in volumes if volume.angpix)


def _file_volumes(source: FileSource) -> Iterator[Volume]:
    for row in _spread(range(len(source))):
        image = source.particles.image(row)
        try:
            yield open_volume(image.path or Path(image.name))
        except VolumeError:  # check_boxes says it
            continue


def _spread(items: Sequence[T]) -> list[T]:
    places = np.unique(np.linspace(0, len(items) - 1, HEADERS).astype(int))
    return [items[place] for place in places.tolist()]
