"""Pixel sizes: what the STAR file, the volumes' headers and the model say, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from cryoclass.card import ModelCard
from cryoclass.cutting import TomogramSource, coordinate_frame
from cryoclass.doctor.findings import Finding, error, ok, warning
from cryoclass.errors import VolumeError
from cryoclass.images import FileSource
from cryoclass.star.frames import Frame
from cryoclass.volumes.mrc import Volume, open_volume
from cryoclass.volumes.pixels import TOLERANCE, agree

HEADERS = 20

T = TypeVar("T")


def check_files(
    source: FileSource, card: ModelCard | None, *, asked: bool, rescale: bool
) -> Iterator[Finding]:
    """Compare STAR file, headers and model for boxes in files.

    Parameters
    ----------
    source
        The boxes.
    card
        The model's, if there is a model.
    asked
        Whether the user said the pixel size, which overrules both.
    rescale
        Whether boxes shall be brought to the model's.
    """
    table, headers = source.particles.angpix, list(_headers(_file_volumes(source)))
    words = _words([("STAR file", table), ("headers", headers), ("model", [card.angpix] if card else None)])
    if asked:
        words += f"; {source.angpix:.4g} A, as you say"
    if not asked and table is not None and headers and _differ([*table[:1], *headers]):
        yield error("pixel size", words, "Say which is right with --angpix.")
    elif card and _differ([source.angpix, card.angpix]) and not rescale:
        yield error("pixel size", words, "Add --rescale; or, where the STAR file is wrong, --angpix.")
    elif card and _differ([source.box * source.angpix, card.box[0] * card.angpix]) and not rescale:
        extent = f"boxes of {source.box} pixels, the model's {card.box[0]}"
        yield error("pixel size", f"{words}; {extent}", "Add --rescale.")
    else:
        yield ok("pixel size", words)


def check_tomograms(source: TomogramSource, card: ModelCard | None, *, asked: bool) -> Iterator[Finding]:
    """Compare STAR file, headers and model for boxes that are cut out of tomograms.

    Parameters
    ----------
    source
        The boxes.
    card
        The model's, if there is a model.
    asked
        Whether the user said the voxel size of the tomograms, or of the coordinates.
    """
    tomogram = [p.geometry.angpix for p in source.placements]
    headers = list(_headers(p.tomogram.open() for p in _spread(source.placements)))
    named, table = _of_tomogram(source)
    words = _words([(named, table), ("headers", headers), ("model", [card.angpix] if card else None)])
    words += f"; boxes are cut at {source.angpix:.4g} A"
    if not asked and table is not None and headers and _differ([*table, *headers]):
        level = warning if named == "STAR file's images" else error
        yield level(
            "pixel size",
            words,
            "Say the size of the voxels with --tomogram-angpix, or what the coordinates count with --coords-angpix.",
        )
    elif max(tomogram) > source.angpix * (1 + TOLERANCE):
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
    counts_tomogram = coordinate_frame(particles, source.settings) is Frame.TOMOGRAM_PIXELS
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
