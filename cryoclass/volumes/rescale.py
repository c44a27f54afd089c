"""Changing the pixel size of a cube in Fourier space, and choosing the cube to cut for it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

MAX_PIXEL_ERROR = 1e-3
MARGIN = 4  # pixels beyond the box that interpolation looks at, since Fourier space joins opposite faces


@dataclass(frozen=True, kw_only=True)
class RescalePlan:
    """Which cube to cut and what to make of it.

    Attributes
    ----------
    cut
        Side in pixels of the cube to cut from the tomogram.
    scaled
        Side in pixels after rescaling in Fourier space; ``None`` where no whole number fits, and the voxels of the box
        are interpolated.
    box
        Side in pixels of the centre that is kept.
    angpix
        Pixel size in angstroms of the result.
    step
        Pixels of the cut cube per pixel of the result.
    """

    cut: int
    scaled: int | None
    box: int
    angpix: float
    step: float


def plan_rescale(box: int, from_angpix: float, to_angpix: float) -> RescalePlan:
    """Find the smallest pair of even cubes whose ratio meets the wished pixel size within 0.1 %.

    A Fourier rescale goes from one whole number of pixels to another. Cutting up to twice of what is asked, and keeping
    the centre, reaches most pixel sizes; the others are interpolated.

    Parameters
    ----------
    box
        Wished side in pixels.
    from_angpix, to_angpix
        Pixel sizes in angstroms of the tomogram and of the result.
    """
    ratio = to_angpix / from_angpix
    if abs(ratio - 1) < MAX_PIXEL_ERROR:
        return RescalePlan(cut=box, scaled=box, box=box, angpix=from_angpix, step=1.0)
    for scaled in range(box + box % 2, 2 * box + 2, 2):
        cut = 2 * round(scaled * ratio / 2)
        step = cut / scaled
        if abs(step / ratio - 1) < MAX_PIXEL_ERROR:
            return RescalePlan(cut=cut, scaled=scaled, box=box, angpix=from_angpix * step, step=step)
    cut = 2 * math.ceil(box * ratio / 2) + MARGIN
    return RescalePlan(cut=cut, scaled=None, box=box, angpix=to_angpix, step=ratio)


def apply_rescale(cube: np.ndarray, plan: RescalePlan) -> np.ndarray:
    """Rescale a cut cube (``plan.cut`` pixels a side) and keep its centre (``plan.box`` pixels a side)."""
    if plan.scaled is None:
        return fourier_interpolate(cube, plan.box, plan.step)
    scaled = cube if plan.cut == plan.scaled else fourier_rescale(cube, plan.scaled)
    return centre_of(scaled, plan.box)


def centre_of(cube: np.ndarray, box: int) -> np.ndarray:
    """Return the central ``box`` pixels a side; voxel ``n // 2`` becomes voxel ``box // 2``."""
    return cube[tuple(slice(n // 2 - box // 2, n // 2 - box // 2 + box) for n in cube.shape)]


def fourier_rescale(cube: np.ndarray, size: int) -> np.ndarray:
    """Crop or pad a cube's Fourier transform, which changes its pixel size and keeps its extent.

    Voxel ``n // 2`` stays the centre and grey values keep their scale. This is ``relion_preprocess --scale``
    (RELION 3.1.3), equal to 1e-6 of the grey values' deviation: of each pair of Nyquist frequencies the positive one is
    kept, and a cube that grows loses the corners beyond the Nyquist sphere.

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
    half = min(side, size) // 2
    rows, columns = np.r_[0 : half + 1, 1 - half : 0], np.arange(half + 1)
    spectrum = fft.rfftn(cube.astype(np.float32, copy=False))
    kept = spectrum[np.ix_(rows, rows, columns)]
    if size > side:
        z, y, x = np.ix_(rows, rows, columns)
        kept[z**2 + y**2 + x**2 > half**2] = 0
    result = np.zeros((size, size, size // 2 + 1), dtype=kept.dtype)
    result[np.ix_(rows, rows, columns)] = kept
    scale = np.float32((size / side) ** 3)
    return np.asarray(fft.irfftn(result, (size, size, size)) * scale, dtype=np.float32)


def fourier_interpolate(cube: np.ndarray, box: int, step: float) -> np.ndarray:
    """Read a cube's Fourier series at the voxels of a smaller box with any pixel size.

    Voxel ``n // 2`` stays the centre and grey values keep their scale. Frequencies that the coarser of both grids
    cannot hold are left out, as :func:`fourier_rescale` does.

    Parameters
    ----------
    cube
        ``[z, y, x]``.
    box
        Side of the result in pixels.
    step
        Pixels of the cube per pixel of the result.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32.
    """
    rows = _fourier_rows(cube.shape[0], box, step)
    cube = cube.astype(np.float32, copy=False)
    return np.asarray(np.einsum("az,by,cx,zyx->abc", rows, rows, rows, cube, optimize=True))


@lru_cache(maxsize=8)
def _fourier_rows(side: int, box: int, step: float) -> np.ndarray:
    """Return what each of ``side`` voxels gives to each of ``box`` voxels along one axis (box, side)."""
    wanted = (np.arange(box) - box // 2) * step + side // 2
    distance = wanted[:, None] - np.arange(side)
    frequencies = np.arange(1, math.ceil(side / max(step, 1) / 2))
    waves = np.cos(2 * np.pi / side * distance[:, :, None] * frequencies)
    return np.asarray((1 + 2 * waves.sum(axis=2)) / side, dtype=np.float32)
