"""Boxes in files that a table names: one volume each, or a stack of volumes."""

from pathlib import Path, PureWindowsPath

import numpy as np

from cryoclass.errors import ParticleError, VolumeError
from cryoclass.files import digest, stamp
from cryoclass.particles import Particles
from cryoclass.volumes.mrc import Volume, check_finite, open_volume, uneven_problem
from cryoclass.volumes.pixels import agree

_REEXTRACT = (
    "Extract again with 3D volumes (RELION 5: 'Write output as 2D stacks? No'; WarpTools: --3d), or cut them from "
    "the tomograms: cryoclass extract, or --tomograms."
)


class FileSource:
    """Boxes from the files that ``rlnImageName`` names: one volume each, or ``n@stack`` of a volume stack.

    Parameters
    ----------
    particles
        A table with images.
    angpix
        Pixel size in angstroms, where the user says it; else the STAR file's, else the first header's. Whether those two
        agree is a check of its own.

    Raises
    ------
    ParticleError
        The images are 2D stacks, none of them can be read, or pixel sizes are mixed or unknown.
    """

    def __init__(self, particles: Particles, angpix: float | None = None) -> None:
        if particles.stacks_2d and not _is_cube(particles):
            raise ParticleError(
                f"{particles.path}: its images are 2D stacks ({particles.dialect}), no volumes.",
                _REEXTRACT,
            )
        self.particles = particles
        self.images = particles.images
        self.order = np.arange(len(particles))
        first, volume = self._first_readable()
        self.box = first.shape[0]
        self.angpix = _file_angpix(particles, volume, angpix)
        self._by_header = angpix is None and particles.angpix is None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        data, volume = self._open(index)
        if data.shape[0] != self.box:
            raise VolumeError(
                f"{self.images[index]} has a box of {data.shape[0]}, the others have {self.box} pixels."
            )
        if self._by_header and volume.angpix is not None and not agree(volume.angpix, self.angpix):
            raise VolumeError(
                f"{self.images[index]} has pixels of {volume.angpix:g} A, the others of {self.angpix:g} A."
            )
        voxels = np.array(data, dtype=np.float32)
        check_finite(voxels, Path(self.images[index]))
        if voxels.min() == voxels.max():
            raise VolumeError(f"{self.images[index]} is constant: every voxel is {voxels.flat[0]:g}.")
        return voxels

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`cryoclass.sources.Source`.

        The names of the images within their folders, and size and time of the files: a folder that was moved as a whole
        holds the same boxes.
        """
        images = [self.particles.image(row) for row in range(len(self))]
        names = [(image.number, PureWindowsPath(image.name).name) for image in images]  # behind / and \ alike
        stamps = [stamp(path) for path in dict.fromkeys(image.path or Path(image.name) for image in images)]
        return digest("images", self.box, self.angpix, *names, *stamps)

    def _open(self, index: int) -> tuple[np.ndarray, Volume]:
        image = self.particles.image(index)
        if image.path is None:
            raise VolumeError(f"{image.name}: no such volume.")
        volume = open_volume(image.path)
        return one_box(volume, image.number), volume

    def _first_readable(self) -> tuple[np.ndarray, Volume]:
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


def _is_cube(particles: Particles) -> bool:
    """Whether the first image is a volume after all, though its name ends as those of stacks do."""
    image = particles.image(0)
    if image.path is None or image.number is not None:
        return False
    try:
        volume = open_volume(image.path)
    except VolumeError:
        return False
    return not volume.is_image_stack and volume.data.ndim == 3 and len(set(volume.data.shape)) == 1


def one_box(volume: Volume, number: int | None) -> np.ndarray:
    """Return the cube ``[z, y, x]`` in a file, or the one of this number in a stack.

    Raises
    ------
    VolumeError
        There is no cube, or none of this number.
    """
    data = volume.voxels if number in (None, 1) else volume.data
    if data.ndim == 4:
        if number is None or not 1 <= number <= len(data):
            raise VolumeError(
                f"{volume.path} is a stack of {len(data)} volumes; its images are 1@ to {len(data)}@."
            )
        data = data[number - 1]
    elif number is not None and volume.data.ndim == 3:
        raise VolumeError(f"{number}@{volume.path} is one section of a volume, no box.", _REEXTRACT)
    z, y, x = data.shape
    if z == y == x:
        return data
    if y in (z, z // 2) and x == y // 2 + 1:
        raise VolumeError(f"{volume.path} is a CTF or weights volume (half a Fourier transform), no density.")
    if z == 1:
        raise VolumeError(f"{volume.path} is a 2D image.", _REEXTRACT)
    raise VolumeError(f"{volume.path} is {x} x {y} x {z} voxels; a subtomogram is a cube.")


def _file_angpix(particles: Particles, first: Volume, asked: float | None) -> float:
    """Return the pixel size of the files: as asked, else the STAR file's, else the first header's."""
    stated = asked or _stated_angpix(particles)
    if stated is None and first.uneven is not None:
        raise uneven_problem(first, "--angpix")
    known = stated or first.angpix
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
    if not agree(smallest, largest):
        raise ParticleError(
            f"{particles.path}: its images have pixel sizes from {smallest:g} to {largest:g} A.",
            "Extract them again with one --angpix.",
        )
    return smallest
