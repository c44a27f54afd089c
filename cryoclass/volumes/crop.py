"""Cutting a box out of a volume. The box centre is voxel ``box // 2``, as in RELION, Warp and IMOD."""

from typing import Literal

import numpy as np

Overlap = Literal["inside", "partial", "outside"]
Index3 = tuple[int, int, int]


def nearest_voxels(positions: np.ndarray) -> np.ndarray:
    """Return the voxels, still as floats, in which positions lie; one right between two lies in the higher one."""
    return np.floor(positions + 0.5)


def crop(volume: np.ndarray, centre: Index3, box: int) -> np.ndarray:
    """Cut a cube; outside the volume the nearest voxel is repeated, as ``relion_preprocess`` does.

    Parameters
    ----------
    volume
        ``[z, y, x]``, any number type, memory-mapped or not.
    centre
        Voxel (z, y, x) that becomes voxel ``box // 2`` of the cube.
    box
        Side of the cube in pixels.

    Returns
    -------
    numpy.ndarray
        ``[z, y, x]`` float32, a copy.
    """
    starts = [c - box // 2 for c in centre]
    inside = tuple(
        slice(min(max(s, 0), n - 1), max(min(s + box, n), 1))
        for s, n in zip(starts, volume.shape, strict=True)
    )
    cut = np.array(volume[inside], dtype=np.float32, order="C")  # a copy also where the types agree
    if cut.shape == (box, box, box):
        return cut
    return cut[
        np.ix_(
            *(
                np.clip(np.arange(s, s + box), 0, n - 1) - cell.start
                for s, n, cell in zip(starts, volume.shape, inside, strict=True)
            )
        )
    ]


def overlap(shape: tuple[int, ...], centre: Index3, box: int) -> Overlap:
    """Say whether the cube lies inside a volume of ``shape`` (z, y, x), partly, or wholly outside."""
    starts = np.array(centre) - box // 2
    if (starts >= 0).all() and (starts + box <= np.array(shape)).all():
        return "inside"
    if (starts + box <= 0).any() or (starts >= np.array(shape)).any():
        return "outside"
    return "partial"
