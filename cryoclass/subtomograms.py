"""Where each particle's voxels come from: one file each, a stack of volumes, or a crop out of a tomogram."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from cryoclass.errors import ParticleError, VolumeError
from cryoclass.particles import Particles
from cryoclass.settings import Extraction
from cryoclass.star.dialects import Frame
from cryoclass.star.frames import Geometry, affine, xyz_to_zyx
from cryoclass.star.names import resolve
from cryoclass.tomograms import Tomogram
from cryoclass.volumes.crop import crop, overlap
from cryoclass.volumes.mrc import Volume, check_finite, open_volume
from cryoclass.volumes.normalise import normalise
from cryoclass.volumes.rescale import RescalePlan, apply_rescale, plan_rescale

MAX_ANGPIX_DIFFERENCE = 0.01
FAR_OUTSIDE = 2**40  # voxels; nonsense coordinates must stay whole numbers
_REEXTRACT = (
    "Extract again with 3D volumes (RELION 5: 'Write output as 2D stacks? No'; WarpTools: --3d), or cut them from "
    "the tomograms: cryoclass extract, or --tomograms."
)


class Source(Protocol):
    """Voxels by row number.

    Attributes
    ----------
    angpix
        Pixel size of the boxes in angstroms.
    box
        Side of the boxes in pixels.
    order
        Row numbers in the order that reads fastest.
    """

    angpix: float
    box: int
    order: np.ndarray

    def __len__(self) -> int:
        """Return the number of particles."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32.

        Raises
        ------
        VolumeError
            This particle has no usable box; the message says why.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A particle that was left out, and why."""

    row: int
    tomogram: str
    reason: str


class FileSource:
    """Boxes from the files that ``rlnImageName`` names: one volume each, or ``n@stack`` of a volume stack.

    Parameters
    ----------
    particles
        A table with images.
    angpix
        Pixel size in angstroms, where the user says it; else the STAR file's, else the first header's.

    Raises
    ------
    ParticleError
        The images are 2D stacks, none of them can be read, or pixel sizes are mixed or unknown.
    """

    def __init__(self, particles: Particles, angpix: float | None = None) -> None:
        if particles.dialect.stacks_2d:
            raise ParticleError(
                f"{particles.path}: its images are 2D stacks ({particles.dialect.name}), no volumes.",
                _REEXTRACT,
            )
        self.particles = particles
        self.images = particles.images
        self.order = np.arange(len(particles))
        first, header_angpix = self._first_readable()
        self.box = first.shape[0]
        self.angpix = _file_angpix(particles, header_angpix, angpix)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        data = self._open(index)[0]
        if data.shape[0] != self.box:
            raise VolumeError(
                f"{self.images[index]} has a box of {data.shape[0]}, the others have {self.box} pixels."
            )
        voxels = np.array(data, dtype=np.float32)
        check_finite(voxels, Path(self.images[index]))
        if voxels.min() == voxels.max():
            raise VolumeError(f"{self.images[index]} is constant: every voxel is {voxels.flat[0]:g}.")
        return voxels

    def _open(self, index: int) -> tuple[np.ndarray, float | None]:
        number, _, name = self.images[index].rpartition("@")
        path = resolve(name, self.particles.path)
        if path is None:
            raise VolumeError(f"{name}: no such volume.")
        volume = open_volume(path)
        return _one_box(volume, int(number) if number.isdigit() else None), volume.angpix

    def _first_readable(self) -> tuple[np.ndarray, float | None]:
        problem: VolumeError | None = None
        for index in range(len(self)):
            try:
                return self._open(index)
            except VolumeError as error:
                problem = problem or error
        assert problem is not None  # an empty table was refused when it was read  # noqa: S101
        raise ParticleError(
            f"{self.particles.path}: none of its {len(self)} images can be read; the first: {problem}",
            problem.hint
            or "Image paths are tried from the current folder, the STAR file's folder and its parents.",
        )


def _one_box(volume: Volume, number: int | None) -> np.ndarray:
    data = volume.data
    if data.ndim == 4:
        if number is None or not 1 <= number <= len(data):
            raise VolumeError(
                f"{volume.path} is a stack of {len(data)} volumes; its images are 1@ to {len(data)}@."
            )
        data = data[number - 1]
    elif number is not None:
        raise VolumeError(f"{number}@{volume.path} is one section of a volume, no box.", _REEXTRACT)
    z, y, x = data.shape
    if z == y == x:
        return data
    if y in (z, z // 2) and x == y // 2 + 1:
        raise VolumeError(f"{volume.path} is a CTF or weights volume (half a Fourier transform), no density.")
    if z == 1:
        raise VolumeError(f"{volume.path} is a 2D image.", _REEXTRACT)
    raise VolumeError(f"{volume.path} is {x} x {y} x {z} voxels; a subtomogram is a cube.")


def _file_angpix(particles: Particles, header: float | None, asked: float | None) -> float:
    """Return the pixel size of the files: as asked, else what STAR file and headers agree on."""
    if asked is not None:
        return asked
    stated = _stated_angpix(particles)
    if stated and header and abs(stated / header - 1) > MAX_ANGPIX_DIFFERENCE:
        raise ParticleError(
            f"{particles.path} says {stated:g} A per pixel, but its volumes' headers {header:g} A.",
            "Say which is right with --angpix.",
        )
    known = stated or header
    if known is None:
        raise ParticleError(
            f"{particles.path}: the pixel size stands neither in the STAR file nor in the volumes.",
            "Give --angpix.",
        )
    return known


def _stated_angpix(particles: Particles) -> float | None:
    if particles.angpix is None:
        return None
    smallest, largest = float(particles.angpix.min()), float(particles.angpix.max())
    if largest / smallest - 1 > MAX_ANGPIX_DIFFERENCE:
        raise ParticleError(
            f"{particles.path}: its images have pixel sizes from {smallest:g} to {largest:g} A.",
            "Extract them again with one --angpix.",
        )
    return smallest


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the boxes of one tomogram are cut.

    Attributes
    ----------
    rows
        Row numbers (m,).
    positions
        Where the particles are (m, 3) x, y, z: 0-based voxel indices with fraction.
    centres
        Voxels (m, 3) x, y, z that become the box centres.
    geometry
        Sizes of the tomogram.
    plan
        Which cube to cut and what to make of it.
    """

    tomogram: Tomogram
    rows: np.ndarray
    positions: np.ndarray
    centres: np.ndarray
    geometry: Geometry
    plan: RescalePlan


class TomogramSource:
    """Boxes cut from tomograms on the fly, exactly as ``extract`` writes them.

    Parameters
    ----------
    particles
        A table with coordinates.
    tomograms
        Volumes by tomogram name; particles of other tomograms cannot be read.
    settings
        How to cut.
    tomogram_angpix
        Voxel size of the tomograms in angstroms, where the headers are wrong.

    Raises
    ------
    ParticleError
        Tomograms of different pixel sizes and no ``settings.angpix``, or a size that the coordinates need is unknown.
    """

    def __init__(
        self,
        particles: Particles,
        tomograms: Mapping[str, Tomogram],
        settings: Extraction,
        tomogram_angpix: float | None = None,
    ) -> None:
        self.particles, self.settings = particles, settings
        self.placements = list(place(particles, tomograms, settings, tomogram_angpix))
        self.angpix = _common_angpix(self.placements)
        self.box = settings.box
        self.order = np.concatenate([p.rows for p in self.placements])

    def __len__(self) -> int:
        return len(self.particles)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        if index not in self._where:
            raise VolumeError(f"tomogram {self.particles.tomograms[index]} has no volume.")
        placement, position = self._where[index]
        z, y, x = xyz_to_zyx(placement.centres[position]).tolist()
        volume = placement.tomogram.open()
        how = overlap(volume.data.shape, (z, y, x), placement.plan.cut)
        if how == "outside" or (how == "partial" and self.settings.edge == "skip"):
            words = "lies outside" if how == "outside" else "sticks out of"
            raise VolumeError(f"the box at x={x} y={y} z={z} {words} the tomogram {_size_words(volume)}.")
        bright = placement.tomogram.is_bright(self.particles.dialect)
        return finish_box(
            crop(volume.data, (z, y, x), placement.plan.cut), placement.plan, self.settings, bright=bright
        )

    @cached_property
    def _where(self) -> dict[int, tuple[Placement, int]]:
        return {int(row): (p, position) for p in self.placements for position, row in enumerate(p.rows)}


class RescaledSource:
    """Boxes of another source, brought to another box and pixel size.

    What the new box needs beyond the old one repeats its outermost voxels.

    Parameters
    ----------
    source
        Where the boxes come from.
    box, angpix
        Side in pixels and pixel size in angstroms that are wanted; the pixel size is met within 0.1 %.
    """

    def __init__(self, source: Source, box: int, angpix: float) -> None:
        self.source, self.order = source, source.order
        self.plan = plan_rescale(box, source.angpix, angpix)
        self.box, self.angpix = box, self.plan.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        middle = self.source.box // 2
        wider = crop(self.source.read(index), (middle, middle, middle), self.plan.cut)
        return np.ascontiguousarray(apply_rescale(wider, self.plan))


class InvertedSource:
    """Boxes of another source with their contrast flipped."""

    def __init__(self, source: Source) -> None:
        self.source, self.order, self.box, self.angpix = source, source.order, source.box, source.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        return -self.source.read(index)


class JoinedSource:
    """Boxes of several sources, one after the other.

    Raises
    ------
    ParticleError
        Boxes or pixel sizes differ.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.order = np.concatenate([s.order + start for s, start in zip(sources, self.starts, strict=False)])
        self.box, self.angpix = sources[0].box, sources[0].angpix
        for other in sources[1:]:
            if other.box != self.box or abs(other.angpix / self.angpix - 1) > MAX_ANGPIX_DIFFERENCE:
                raise ParticleError(
                    f"the files' boxes differ: {self.box} pixels of {self.angpix:.4g} A, and {other.box} pixels of "
                    f"{other.angpix:.4g} A.",
                    "Extract them with the same --box and --angpix.",
                )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[which].read(index - int(self.starts[which]))


def mean_of(source: Source, count: int = 100) -> np.ndarray:
    """Return the mean ``[z, y, x]`` of some boxes, spread over the table; bad ones are passed over."""
    rows = source.order[np.unique(np.linspace(0, len(source.order) - 1, count).astype(int))]
    total, read = np.zeros((source.box,) * 3), 0
    for row in rows.tolist():
        try:
            total += source.read(row)
        except VolumeError:
            continue
        read += 1
    return np.asarray(total / max(read, 1), dtype=np.float32)


def finish_box(cut: np.ndarray, plan: RescalePlan, settings: Extraction, *, bright: bool) -> np.ndarray:
    """Turn a plain crop into a subtomogram: rescale, normalise, then invert, in RELION's order.

    Parameters
    ----------
    cut
        ``[z, y, x]`` float32 cube of ``plan.cut`` pixels a side.
    plan, settings
        How to rescale and what else to do.
    bright
        Whether particles are brighter than the background in the tomogram; decides ``--invert auto``.

    Raises
    ------
    VolumeError
        The box holds NaN or is constant.
    """
    check_finite(cut, Path("the box"))
    if cut.min() == cut.max():
        raise VolumeError(f"the box is constant: every voxel is {cut.flat[0]:g}.")
    box = apply_rescale(cut, plan)
    if settings.norm:
        box = normalise(box, settings.background_radius)
    invert = settings.invert == "yes" or (settings.invert == "auto" and not bright)
    return np.ascontiguousarray(-box if invert else box)


def place(
    particles: Particles,
    tomograms: Mapping[str, Tomogram],
    settings: Extraction,
    tomogram_angpix: float | None = None,
) -> Iterable[Placement]:
    """Yield where to cut, tomogram by tomogram, in the order of the file."""
    coordinates, frame = particles.coordinates, coordinate_frame(particles, settings)
    rows_of = _rows_by_name(particles.tomograms)
    for name, tomogram in tomograms.items():
        rows = rows_of[name]
        geometry = _geometry(tomogram, particles, rows, tomogram_angpix)
        pixel = settings.coords_angpix or (None if particles.angpix is None else particles.angpix[rows])
        positions = affine(frame, geometry, pixel).voxel(coordinates[rows])
        if settings.shifts and particles.origins is not None:
            positions = positions - particles.origins[rows] / geometry.angpix
        rounded = np.trunc(positions) if settings.relion_rounding else np.floor(positions + 0.5)
        yield Placement(
            tomogram=tomogram,
            rows=rows,
            positions=positions,
            centres=np.clip(rounded, -FAR_OUTSIDE, FAR_OUTSIDE).astype(np.int64),
            geometry=geometry,
            plan=plan_rescale(settings.box, geometry.angpix, settings.angpix or geometry.angpix),
        )


def _rows_by_name(names: Sequence[str]) -> dict[str, np.ndarray]:
    distinct, codes = np.unique(np.array(names), return_inverse=True)
    order, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))
    return dict(zip(distinct.tolist(), np.split(order, ends[:-1]), strict=True))


def _geometry(tomogram: Tomogram, particles: Particles, rows: np.ndarray, angpix: float | None) -> Geometry:
    """Return the tomogram's sizes; what it does not know of its tilt series may stand with the particles."""
    geometry = tomogram.geometry(angpix)
    if geometry.tilt_series_angpix is not None or particles.tilt_series_angpix is None:
        return geometry
    return replace(geometry, tilt_series_angpix=float(particles.tilt_series_angpix[rows[0]]))


def coordinate_frame(particles: Particles, settings: Extraction) -> Frame:
    """Return what the coordinates count: what the user says (``--coords-angpix``), else what the file is."""
    frame = particles.dialect.frame
    if settings.coords_angpix is not None or frame is None:
        return Frame.IMAGE_PIXELS
    return frame


def _common_angpix(placements: list[Placement]) -> float:
    sizes = {p.tomogram.name: p.plan.angpix for p in placements}
    small, large = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    if sizes[large] / sizes[small] - 1 > MAX_ANGPIX_DIFFERENCE:
        raise ParticleError(
            f"the tomograms have different pixel sizes: {small} {sizes[small]:g} A, {large} {sizes[large]:g} A.",
            "Give --angpix, so that all boxes get the same.",
        )
    return sizes[small]


def _size_words(volume: Volume) -> str:
    z, y, x = volume.data.shape
    return f"{volume.path.name} ({x} x {y} x {z})"


def safe_name(name: str) -> str:
    """Turn a tomogram name into one folder name."""
    return re.sub(r"[^\w.+-]", "_", name) or "tomogram"
