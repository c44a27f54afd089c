"""MRC files with every oddity that is found in the wild, made by hand from a header and voxels."""

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

DTYPES = {0: "i1", 1: "i2", 2: "f4", 3: "i2", 4: "c8", 6: "u2", 12: "f2", 101: "u1"}


def ramp(shape: tuple[int, ...] = (3, 4, 5), dtype: str = "f4") -> np.ndarray:
    """Return voxels that all differ, so that no axis can be mistaken for another."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def header(shape: tuple[int, ...], mode: int = 2, order: str = "<", **fields: object) -> np.ndarray:
    """Return an MRC2014 header for voxels of 2.5 A; ``fields`` are set last."""
    record = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    nz, ny, nx = shape
    sizes = {
        "nx": nx,
        "ny": ny,
        "nz": nz,
        "mx": nx,
        "my": ny,
        "mz": nz,
        "cella": (2.5 * nx, 2.5 * ny, 2.5 * nz),
    }
    stamps = {
        "map": b"MAP ",
        "nversion": 20141,
        "machst": (0x44, 0x44, 0, 0) if order == "<" else (0x11, 0x11, 0, 0),
    }
    axes = {"mapc": 1, "mapr": 2, "maps": 3, "ispg": 1}
    for name, value in {"mode": mode, **sizes, **stamps, **axes, **fields}.items():
        record[name] = value
    return record


def mrc(data: np.ndarray, mode: int = 2, order: str = "<", extended: bytes = b"", **fields: object) -> bytes:
    """Return a whole file: header, extended header, voxels ``[z, y, x]``."""
    head = header(data.shape, mode, order, nsymbt=len(extended), **fields)
    voxels = data.astype(np.dtype(DTYPES[mode]).newbyteorder(order))
    return head.tobytes() + extended + voxels.tobytes()
