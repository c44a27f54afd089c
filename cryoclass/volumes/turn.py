"""Turning and moving a cube by cubic splines, about voxel ``n // 2``. Rotations and shifts are in x, y, z, volumes [z, y, x]."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Density = NDArray[np.float32]


def spline(volume: NDArray[Any]) -> Density:
    """Return the spline coefficients [z, y, x] of a volume: what turning it needs."""
    return np.asarray(ndimage.spline_filter(volume, order=3, output=np.float32))


def turned_spline(
    coefficients: Density,
    rotation: NDArray[Any],
    offset: NDArray[Any],
    outside: Literal["constant", "nearest"] = "constant",
) -> Density:
    """Return a volume turned about its centre and then moved.

    Parameters
    ----------
    coefficients
        From :func:`spline`.
    rotation
        Matrix (3, 3) in x, y, z.
    offset
        Shift x, y, z in voxels.
    outside
        What comes in from outside of the cube: 0, or the nearest voxel again, as where boxes are cut.
    """
    matrix, shift_zyx = zyx_from_xyz(rotation), offset[::-1]
    centre = np.full(3, coefficients.shape[0] // 2)
    back = matrix.T  # affine_transform asks where an output voxel comes from
    start = centre - back @ (centre + shift_zyx)
    moved = ndimage.affine_transform(coefficients, back, offset=start, order=3, mode=outside, prefilter=False)
    return np.asarray(moved, dtype=np.float32)


def turned_back(volume: NDArray[Any], rotation: NDArray[Any], offset: NDArray[Any]) -> Density:
    """Undo a turn and a move: return a box [z, y, x] with its particle at the centre and as it lies in the reference.

    Parameters
    ----------
    volume
        The box.
    rotation
        Matrix (3, 3) in x, y, z that takes the reference to the box.
    offset
        Where the particle lies from the centre of the box: x, y, z in voxels.
    """
    return turned_spline(spline(volume), rotation.T, -rotation.T @ offset, "nearest")


def zyx_from_xyz(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix for x, y, z as one for z, y, x."""
    return matrix[::-1, ::-1]
