"""What is known of the voxels of particles: which belong to them, and their densities.

It comes from volumes that a table names, or from one reference for each class, turned into place.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import VolumeError
from cryoclass.files import digest, stamp
from cryoclass.images import one_box
from cryoclass.particles import Particles
from cryoclass.poses import Poses
from cryoclass.sources import Source
from cryoclass.star.tables import DENSITY_COLUMN, MASK_COLUMN
from cryoclass.tasks.task import Truth
from cryoclass.volumes.mask import particle_mask
from cryoclass.volumes.mrc import open_volume
from cryoclass.volumes.normalise import standard_density
from cryoclass.volumes.pixels import agree
from cryoclass.volumes.turn import spline, turned_spline

Density = NDArray[np.float32]

COLUMNS: dict[Truth, str] = {"mask": MASK_COLUMN, "density": DENSITY_COLUMN}
NO_FILE = ("", "None", "<NA>")  # what stands in a cell that names none
ROUNDING = 1e-3  # by which a mask may leave the range from 0 to 1


class NamedVolumes:
    """Volumes that a column of a table names, one for each row; see :class:`cryoclass.sources.Source`.

    A row that names none, or all rows of a table without the column, are NaN.

    Parameters
    ----------
    particles
        The table.
    truth
        ``mask`` or ``density``.
    boxes
        The boxes of the same rows; the volumes must have their side and pixel size.
    """

    def __init__(self, particles: Particles, truth: Truth, boxes: Source) -> None:
        self.particles, self.truth = particles, truth
        self.box, self.angpix, self.order = boxes.box, boxes.angpix, boxes.order
        self.column = COLUMNS[truth]
        has_column = particles.has(self.column)
        self.cells = particles.cells(self.column) if has_column else [""] * len(particles)
        self._ready: Callable[[Density], Density] = _mask if truth == "mask" else standard_density

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows name a volume, (n,)."""
        return np.array([cell not in NO_FILE for cell in self.cells])

    def read(self, index: int) -> np.ndarray:
        """Return the volume of one row, ``[z, y, x]`` float32: a mask of 0 and 1, or a density of deviation 1."""
        cell = self.cells[index]
        if cell in NO_FILE:
            return np.full((self.box,) * 3, np.nan, np.float32)
        image = self.particles.image_file(cell)
        if image.path is None:
            raise VolumeError(f"{cell} ({self.column}): no such volume.")
        volume = open_volume(image.path)
        data = one_box(volume, image.number)
        if data.shape[0] != self.box:
            raise VolumeError(
                f"{cell} ({self.column}) has a box of {data.shape[0]}, its particle has {self.box} pixels."
            )
        if volume.angpix is not None and not agree(volume.angpix, self.angpix):
            raise VolumeError(
                f"{cell} ({self.column}) has pixels of {volume.angpix:g} A, its particle of {self.angpix:.4g} A."
            )
        return self._checked(np.array(data, np.float32), cell)

    def _checked(self, data: Density, cell: str) -> Density:
        if not np.isfinite(data).all():
            raise VolumeError(f"{cell} ({self.column}) holds voxels that are no numbers.")
        try:
            return self._ready(data)
        except VolumeError as problem:
            raise VolumeError(f"{cell} ({self.column}): {problem}") from problem

    def fingerprint(self) -> str:
        """Return what the volumes are: names within their folders, size and time of the files."""
        files = [self.particles.image_file(cell) for cell in self.cells if cell not in NO_FILE]
        names = [(file.number, file.path.name if file.path else file.name) for file in files]
        stamps = [stamp(path) for path in dict.fromkeys(file.path for file in files if file.path)]
        return digest(self.truth, self.box, self.known.tobytes(), *names, *stamps)


class PosedVolumes:
    """A reference for each class, turned and moved as each particle lies in its box; see :class:`cryoclass.sources.Source`.

    A row whose class has no reference is NaN.

    Parameters
    ----------
    references
        Density [z, y, x] of each class by its name, of the boxes' side and pixel size, background 0.
    classes
        Class of each row (n,); None where it has none.
    poses
        How the particles lie.
    truth
        ``mask`` or ``density``.
    boxes
        The boxes of the same rows.
    """

    def __init__(
        self,
        references: Mapping[str, Density],
        classes: Sequence[str | None],
        poses: Poses,
        truth: Truth,
        boxes: Source,
    ) -> None:
        self.classes, self.poses, self.truth = classes, poses, truth
        self.box, self.angpix, self.order = boxes.box, boxes.angpix, boxes.order
        self.splines = {name: spline(density) for name, density in references.items()}

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a reference, (n,)."""
        return np.array([name in self.splines for name in self.classes])

    def read(self, index: int) -> np.ndarray:
        """Return the volume of one row, ``[z, y, x]`` float32: a mask of 0 and 1, or a density of deviation 1."""
        name = self.classes[index]
        if name is None or name not in self.splines:
            return np.full((self.box,) * 3, np.nan, np.float32)
        offset = self.poses.offsets[index] / self.angpix
        density = turned_spline(self.splines[name], self.poses.rotations[index], offset)
        return particle_mask(density) if self.truth == "mask" else standard_density(density)

    def fingerprint(self) -> str:
        """Return what the volumes are: references, classes and poses."""
        names = [name or "" for name in self.classes]
        splines = [part for name, values in self.splines.items() for part in (name, values.tobytes())]
        poses = self.poses.rotations.tobytes(), self.poses.offsets.tobytes()
        return digest(self.truth, self.box, self.angpix, *names, *splines, *poses)


class FirstKnown:
    """Of two sources of truth the first that knows a row; see :class:`cryoclass.sources.Source`."""

    def __init__(self, first: NamedVolumes, second: PosedVolumes) -> None:
        self.first, self.second = first, second
        self.box, self.angpix, self.order = first.box, first.angpix, first.order
        self.known = first.known | second.known
        self._by_first = first.known

    def __len__(self) -> int:
        return len(self.first)

    def read(self, index: int) -> np.ndarray:
        """Return the volume of one row, ``[z, y, x]`` float32."""
        return (self.first if self._by_first[index] else self.second).read(index)

    def fingerprint(self) -> str:
        """Return what the volumes are."""
        return f"{self.first.fingerprint()} {self.second.fingerprint()}"


def _mask(data: Density) -> Density:
    """Return 1 where a mask is at least a half, else 0.

    Raises
    ------
    VolumeError
        It is no mask.
    """
    low, high = float(data.min()), float(data.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise VolumeError(
            f"its voxels go from {low:g} to {high:g}; those of a mask must lie between 0 and 1."
        )
    return (data >= 0.5).astype(np.float32)
