"""From the coordinates of a table to voxels of a tomogram: every formula, and the one place that says zyx.

Voxel indices are 0-based and count to the centre of a voxel. ``position = coordinate - origin``, everywhere
(RELION ``metadata_table.cpp``; Warp ``ExportParticlesTiltseries.cs``).
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from cryoclass.errors import ParticleError


class Frame(Enum):
    """What the numbers of the coordinate columns count, and from where."""

    TOMOGRAM_PIXELS = "pixels of the tomogram, from its first voxel"
    TILT_SERIES_PIXELS = "unbinned pixels of the tilt series, from the first voxel"
    IMAGE_PIXELS = "pixels of the exported image size, from the first voxel"
    NAMED_PIXELS = "pixels of the size in the tomogram's name, from the first voxel"
    CENTRED_ANGSTROMS = "angstroms from the centre of the tomogram"
    PICKED_ANGSTROMS = "angstroms from one unbinned pixel before the centre (as RELION 5's picker writes)"
    ANGSTROMS = "angstroms from the first voxel"
    FRACTION = "fractions (0 to 1) of the tomogram's size"

    @property
    def starts_at_first_voxel(self) -> bool:
        """Whether coordinates count from there, and not from the tomogram's centre."""
        return self not in (Frame.CENTRED_ANGSTROMS, Frame.PICKED_ANGSTROMS)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one tomogram, as far as they are known.

    Attributes
    ----------
    shape
        Voxels (x, y, z) of the volume file.
    angpix
        Its pixel size in angstroms (``v``).
    tilt_series_angpix
        Unbinned pixel size in angstroms (``P``); ``None`` where nobody says it.
    unbinned_size
        Size (x, y, z) in unbinned pixels (``S``); ``None`` where absent or -999.
    """

    shape: tuple[int, int, int]
    angpix: float
    tilt_series_angpix: float | None = None
    unbinned_size: tuple[float, float, float] | None = None

    @property
    def size_angstroms(self) -> np.ndarray:
        """Physical size (x, y, z) in angstroms: from the unbinned size where known, since binning rounds."""
        if self.unbinned_size is not None and self.tilt_series_angpix is not None:
            return np.array(self.unbinned_size) * self.tilt_series_angpix
        return np.array(self.shape) * self.angpix


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``voxel = scale * coordinate + offset``; the offset is (3,) x, y, z, the scale too, or one per row (n, 1)."""

    scale: np.ndarray
    offset: np.ndarray

    def voxel(self, coordinate: np.ndarray) -> np.ndarray:
        """Turn coordinates (n, 3) x, y, z into voxel indices (n, 3) x, y, z."""
        return np.asarray(self.scale * coordinate + self.offset)

    def coordinate(self, voxel: np.ndarray) -> np.ndarray:
        """Turn voxel indices (n, 3) x, y, z back into coordinates."""
        return np.asarray((voxel - self.offset) / self.scale)


def affine(
    frame: Frame,
    geometry: Geometry,
    image_angpix: np.ndarray | float | None,
    unbinned_angpix: np.ndarray | None = None,
) -> Affine:
    """Return the map from a file's coordinates to voxels of a tomogram.

    Parameters
    ----------
    frame
        What the coordinates count.
    geometry
        Sizes of the tomogram.
    image_angpix
        Pixel size in angstroms that the STAR file states for the images, or in tomograms' names: one, or one per row (n,).
    unbinned_angpix
        Unbinned pixel size in angstroms that it states for the tilt series, per row (n,). It goes before the tomogram's,
        as in RELION, where joined sets divide each particle by its own optics group's (``particle_set.cpp``).

    Raises
    ------
    ParticleError
        A size that the frame needs is unknown.
    """
    angstroms: float | np.ndarray
    unbinned: float | np.ndarray | None
    offset = np.zeros(3)
    match frame:
        case Frame.TOMOGRAM_PIXELS:
            angstroms = geometry.angpix
        case Frame.TILT_SERIES_PIXELS:
            unbinned = geometry.tilt_series_angpix
            if unbinned_angpix is not None:
                unbinned = np.reshape(unbinned_angpix, (-1, 1))
            angstroms = _known(unbinned, "unbinned pixel size", frame)
        case Frame.IMAGE_PIXELS | Frame.NAMED_PIXELS:
            per_row = None if image_angpix is None else np.reshape(image_angpix, (-1, 1))
            angstroms = _known(per_row, "pixel size of the coordinates", frame)
        case Frame.ANGSTROMS:
            angstroms = 1.0
        case Frame.CENTRED_ANGSTROMS:
            angstroms, offset = 1.0, geometry.size_angstroms / (2 * geometry.angpix)
        case Frame.PICKED_ANGSTROMS:
            one = geometry.tilt_series_angpix or geometry.angpix
            angstroms, offset = 1.0, (geometry.size_angstroms / 2 - one) / geometry.angpix
        case Frame.FRACTION:  # WarpTools multiplies by (size - 1) unbinned pixels
            angstroms = geometry.size_angstroms - (geometry.tilt_series_angpix or geometry.angpix)
    return Affine(scale=np.asarray(angstroms / geometry.angpix), offset=offset)


def origins_in_tomogram(origins: np.ndarray, orientation: np.ndarray | None) -> np.ndarray:
    """Turn refined origins of rotated subtomograms into the tomogram's axes.

    Parameters
    ----------
    origins
        (n, 3) x, y, z in angstroms.
    orientation
        (n, 3) rlnTomoSubtomogramRot, Tilt, Psi in degrees, or ``None`` where the boxes are not rotated.
    """
    if orientation is None:
        return origins
    return np.asarray(np.einsum("nij,nj->ni", rotations(orientation), origins))


def origins_in_subtomogram(origins: np.ndarray, orientation: np.ndarray | None) -> np.ndarray:
    """Undo :func:`origins_in_tomogram`: turn origins in the tomogram's axes into those of the rotated subtomograms."""
    if orientation is None:
        return origins
    return np.asarray(np.einsum("nji,nj->ni", rotations(orientation), origins))


def rotations(angles: np.ndarray) -> np.ndarray:
    """Return the rotations (n, 3, 3) in x, y, z that rot, tilt, psi in degrees (n, 3) write down.

    They take a vector of the reference to the same vector in the box (for rlnTomoSubtomogramRot ...: of the subtomogram to the
    tomogram).
    """
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()
    return np.asarray(turns.transpose(0, 2, 1))  # RELION's Euler matrix is the transpose


def xyz_to_zyx(voxels: np.ndarray) -> np.ndarray:
    """Turn x, y, z (STAR files) into z, y, x (arrays). Nothing else in cryoclass does."""
    return voxels[..., ::-1]


def _known(value: float | np.ndarray | None, what: str, frame: Frame) -> float | np.ndarray:
    if value is None:
        raise ParticleError(
            f"the {what} is unknown, but the coordinates are {frame.value}.",
            "Give --tomograms a tomograms.star, or --coords-angpix.",
        )
    return value
