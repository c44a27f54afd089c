"""Pixel sizes: what the STAR file, the volumes' headers and the model say, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from cryoclass.checks.findings import Finding, error, failure, ok, warning
from cryoclass.cutting import Placement, TomogramSource
from cryoclass.errors import VolumeError
from cryoclass.images import FileSource
from cryoclass.star.frames import Frame
from cryoclass.volumes.mrc import Volume, open_volume, uneven_problem
from cryoclass.volumes.pixels import TOLERANCE, agree

HEADERS = 20
MOST_OFF = 2  # voxels; binning rounds

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
    volumes = list(_file_volumes(source))
    table, headers = source.particles.angpix, [volume.angpix for volume in volumes if volume.angpix]
    words = _words([("STAR file", table), ("headers", headers)])
    odd = next((header for header in headers if _differ([source.angpix, header])), None)
    uneven = next((volume for volume in volumes if volume.uneven), None)
    yield from check_remarks(volumes)
    if asked is not None:
        yield ok("pixel size", f"{words}; {asked:.4g} A, as you say")
    elif uneven is not None:
        yield failure("pixel size", uneven_problem(uneven, "--angpix"))
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


def check_named_sizes(source: TomogramSource) -> Iterator[Finding]:
    """Compare the pixel size in the names of the volumes with that of their voxels."""
    for placement in source.placements:
        named = placement.tomogram.named_angpix
        if named is not None and not agree(named, placement.geometry.angpix):
            yield warning(
                "pixel size",
                f"{placement.tomogram.paths[0].name} is named after {named:g} A, but its voxels are taken as "
                f"{placement.geometry.angpix:g} A",
                "Say which is right with --tomogram-angpix.",
            )
            return


def check_unbinned(source: TomogramSource) -> Iterator[Finding]:
    """Compare the unbinned pixel size of the list of tomograms with that of the particles' optics groups."""
    table = source.particles.tilt_series_angpix
    if table is None:
        return
    for placement in source.placements:
        listed, own = placement.tomogram.tilt_series_angpix, np.unique(table[placement.rows])
        if listed is not None and not agree(listed, *own):
            yield warning(
                "pixel size",
                f"{placement.tomogram.name}: tomograms.star says unbinned pixels of {listed:g} A, the particles' optics groups "
                f"{_range(own)}; each particle's own counts",
                "Mend the one that is wrong.",
            )
            return


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


def check_remarks(volumes: Sequence[Volume]) -> Iterator[Finding]:
    """Say what in headers was taken in a way that is worth a word; each kind once, with its first volume and the count."""
    remarked: dict[str, list[Path]] = {}
    for volume in volumes:
        for remark in volume.remarks:
            remarked.setdefault(remark, []).append(volume.path)
    for remark, paths in remarked.items():
        more = f" (and {len(paths) - 1} more like it)" if paths[1:] else ""
        yield warning("volumes", f"{paths[0]}: {remark}{more}", "Write it anew where that is wrong.")


def check_volumes(source: TomogramSource) -> Iterator[Finding]:
    """Say what of the tomograms contradicts their list, and what in their headers is worth a word."""
    yield from check_sizes(source)
    yield from check_unbinned(source)
    yield from check_named_sizes(source)
    yield from check_remarks([placement.tomogram.open() for placement in _spread(source.placements)])


def check_sizes(source: TomogramSource) -> Iterator[Finding]:
    """Compare the size that a list of tomograms states with that of the volume, unbinned against binned.

    An error where coordinates count from the centre or in shares of the size, since it then moves them; a warning elsewhere.
    """
    frame = source.reading.frame
    moves = frame is Frame.FRACTION or not frame.starts_at_first_voxel
    wrong = [p for p in source.placements if _size_off(p) > MOST_OFF]
    if not wrong:
        return
    first = wrong[0].geometry
    stated = " x ".join(f"{side / first.angpix:.5g}" for side in first.size_angstroms)
    words = (
        f"{wrong[0].tomogram.paths[0]} is {' x '.join(map(str, first.shape))} voxels (x, y, z), but rlnTomoSizeX/Y/Z over the "
        f"binning is {stated}"
    )
    more = f"; and {len(wrong) - 1} tomograms more like it" if wrong[1:] else ""
    level = error if moves else warning
    way_out = "Mend tomograms.star: the sizes are those of the unbinned tilt series' tomogram" + (
        ", and the coordinates count from its centre." if moves else "."
    )
    yield level("sizes", words + more, way_out)


def _size_off(placement: Placement) -> float:
    """Return by how many voxels the stated size and that of the volume differ at most."""
    geometry = placement.geometry
    return float(np.abs(geometry.size_angstroms / geometry.angpix - geometry.shape).max())


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
