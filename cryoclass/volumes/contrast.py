"""Whether particles are brighter or darker than what surrounds them."""

from typing import Literal

import numpy as np

Contrast = Literal["bright", "dark", "unknown"]

MIN_DEVIATIONS = 2.0


def measure_contrast(mean_box: np.ndarray) -> Contrast:
    """Judge the mean of many boxes: its centre against its outside.

    Parameters
    ----------
    mean_box
        ``[z, y, x]`` mean of boxes with a particle in the middle each.

    Returns
    -------
    str
        ``bright`` or ``dark`` where the mean over the central sphere (radius a quarter of the box) differs from the
        mean outside the inscribed sphere by more than two standard deviations of the latter's voxels; else
        ``unknown``.
    """
    axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in mean_box.shape)]
    squared = sum(axis.astype(np.float64) ** 2 for axis in axes)
    half = min(mean_box.shape) / 2
    centre, outside = mean_box[squared <= (half / 2) ** 2], mean_box[squared > half**2]
    if not outside.size or not outside.max() > outside.min():
        return "unknown"
    # The outside's voxels are correlated over a few pixels: their scatter, not their standard error, is the unit.
    deviations = (centre.mean(dtype=np.float64) - outside.mean(dtype=np.float64)) / outside.std(
        dtype=np.float64
    )
    if abs(deviations) < MIN_DEVIATIONS:
        return "unknown"
    return "bright" if deviations > 0 else "dark"
