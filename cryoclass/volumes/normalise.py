"""Bringing grey values of a box to units that compare."""

import numpy as np

from cryoclass.errors import VolumeError


def normalise(box: np.ndarray, radius: float) -> np.ndarray:
    """Subtract the background's mean and divide by its standard deviation, over the whole box.

    This is ``relion_preprocess --norm --no_ramp --bg_radius`` (RELION 3.1.3), equal to 2e-7.

    Parameters
    ----------
    box
        ``[z, y, x]`` cube.
    radius
        In pixels; the background is every voxel farther than this from voxel ``n // 2``.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32.

    Raises
    ------
    VolumeError
        There is no background, it is constant, or it holds NaN.
    """
    background = box[_outside(box.shape, radius)].astype(np.float64)
    # min and max, since the deviation of a constant may be a rounding error above 0
    if not background.size or not background.max() > background.min():
        raise VolumeError(
            "the background is constant, so the box cannot be normalised.", "Leave it out, or --no-norm."
        )
    deviation = background.std()  # of the population, as RELION
    return np.asarray((box - background.mean()) / deviation, dtype=np.float32)


def standard_density(density: np.ndarray) -> np.ndarray:
    """Return a density whose background is 0, and whose deviation over the box is 1.

    Parameters
    ----------
    density
        ``[z, y, x]`` cube; its background is the mean outside the ball that fits into it.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32.

    Raises
    ------
    VolumeError
        It is constant.
    """
    outside = _outside(density.shape, min(density.shape) // 2)
    if not density.max() > density.min():
        raise VolumeError("the density is constant.")
    raised = density - density[outside].mean(dtype=np.float64)
    return np.asarray(raised / density.std(dtype=np.float64), dtype=np.float32)


def _outside(shape: tuple[int, ...], radius: float) -> np.ndarray:
    """Return which voxels of a box lie farther than ``radius`` pixels from voxel ``n // 2``."""
    axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in shape)]
    return np.asarray(sum(axis**2 for axis in axes) > radius**2)
