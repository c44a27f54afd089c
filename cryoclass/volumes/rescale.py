"""Changing the pixel size of a cube in Fourier space, and choosing the cube to cut for it."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

MAX_PIXEL_ERROR = 1e-3


@dataclass(frozen=True, kw_only=True)
class RescalePlan:
    """Which cube to cut and what to make of it.

    Attributes
    ----------
    cut
        Side in pixels of the cube to cut from the tomogram.
    scaled
        Side in pixels after rescaling in Fourier space.
    box
        Side in pixels of the centre that is kept.
    angpix
        Pixel size in angstroms of the result.
    """

    cut: int
    scaled: int
    box: int
    angpix: float


def plan_rescale(box: int, from_angpix: float, to_angpix: float) -> RescalePlan:
    """Find the smallest pair of even cubes whose ratio meets the wished pixel size within 0.1 %.

    A Fourier rescale goes from one whole number of pixels to another; cutting a little more than asked, and keeping
    the centre, reaches any pixel size.

    Parameters
    ----------
    box
        Wished side in pixels, even.
    from_angpix, to_angpix
        Pixel sizes in angstroms of the tomogram and of the result.
    """
    ratio = to_angpix / from_angpix
    if abs(ratio - 1) < MAX_PIXEL_ERROR:
        return RescalePlan(cut=box, scaled=box, box=box, angpix=from_angpix)
    best = (np.inf, box, box)
    for scaled in range(box, 2 * box + 2, 2):
        cut = 2 * round(scaled * ratio / 2)
        error = abs(cut / scaled / ratio - 1)
        best = min(best, (error, scaled, max(cut, 2)))
        if error < MAX_PIXEL_ERROR:
            break
    _, scaled, cut = best
    return RescalePlan(cut=cut, scaled=scaled, box=box, angpix=from_angpix * cut / scaled)


def apply_rescale(cube: np.ndarray, plan: RescalePlan) -> np.ndarray:
    """Rescale a cut cube (``plan.cut`` pixels a side) and keep its centre (``plan.box`` pixels a side)."""
    scaled = cube if plan.cut == plan.scaled else fourier_rescale(cube, plan.scaled)
    return centre_of(scaled, plan.box)


def centre_of(cube: np.ndarray, box: int) -> np.ndarray:
    """Return the central ``box`` pixels a side; voxel ``n // 2`` becomes voxel ``box // 2``."""
    return cube[tuple(slice(n // 2 - box // 2, n // 2 - box // 2 + box) for n in cube.shape)]


def fourier_rescale(cube: np.ndarray, size: int) -> np.ndarray:
    """Crop or pad a cube's Fourier transform, which changes its pixel size and keeps its extent.

    Voxel ``n // 2`` stays the centre and grey values keep their scale.

    Parameters
    ----------
    cube
        ``[z, y, x]``, even side.
    size
        New side in pixels, even.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32.
    """
    side = cube.shape[0]
    spectrum = fft.rfftn(cube.astype(np.float32, copy=False))
    keep = min(side, size)
    rows = np.r_[0 : keep // 2, -(keep // 2) : 0]
    kept = spectrum[np.ix_(rows, rows, np.arange(keep // 2 + 1))]
    result = np.zeros((size, size, size // 2 + 1), dtype=kept.dtype)
    result[np.ix_(rows, rows, np.arange(keep // 2 + 1))] = kept
    scale = np.float32((size / side) ** 3)
    return np.asarray(fft.irfftn(result, (size, size, size)) * scale, dtype=np.float32)
