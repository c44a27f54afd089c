"""Grey pictures of boxes: central slices, shrunk to what a page can carry."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from cryoclass.report.content import Array

Grey = NDArray[np.float32]

_LEVELS = 64  # noise of 64 grey levels takes half the bytes of 256 and looks the same
_PIXELS = 1_200_000  # of all pictures of a page together; noise takes about one byte per pixel
_GAP = 2  # clear columns between the slices of a strip
_CLEAR = 255  # the one grey value that is transparent; voxels end at 252


def central_slices(box: Array) -> tuple[Grey, Grey, Grey]:
    """Cut a box [z, y, x] through its centre.

    Returns
    -------
    tuple of three arrays
        ``xy`` [y, x], ``xz`` [z, x] and ``yz`` [z, y], at index ``size // 2``, where RELION has a box's centre.
    """
    z, y, x = (size // 2 for size in box.shape)
    cuts = (box[z], box[:, y], box[:, :, x])
    return tuple(np.nan_to_num(cut.astype(np.float32), posinf=0, neginf=0) for cut in cuts)  # type: ignore[return-value]


def stretch(slices: tuple[Grey, ...]) -> tuple[Grey, ...]:
    """Bring slices to grey values 0 to 1 together, leaving out the darkest and brightest half per cent."""
    voxels = np.concatenate([cut.ravel() for cut in slices])
    low, high = np.percentile(voxels, (0.5, 99.5))
    if not high > low:  # a constant box is mid-grey
        return tuple(np.full_like(cut, 0.5) for cut in slices)
    return tuple(np.clip((cut - low) / (high - low), 0, 1) for cut in slices)


def shrink(picture: Grey, side: int) -> Grey:
    """Average a picture down to at most ``side`` pixels along each axis; smaller ones stay as they are."""
    for axis, size in enumerate(picture.shape):
        if size > side:
            picture = np.moveaxis(np.tensordot(_shares(size, side), picture, axes=(1, axis)), 0, axis)
    return picture


def _shares(size: int, side: int) -> Grey:
    """Return how much of each of ``size`` pixels lies in each of ``side`` wider ones; rows sum to 1."""
    edges = np.linspace(0, size, side + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    overlap = np.minimum(right, pixels + 1) - np.maximum(left, pixels)
    shares: Grey = (np.clip(overlap, 0, None) * side / size).astype(np.float32)
    return shares


def side_for(pictures: int) -> int:
    """Return the side in pixels of a slice that lets a page of ``pictures`` strips stay small."""
    return int(np.clip(np.sqrt(_PIXELS / (3 * max(pictures, 1))), 24, 128))


def strip(box: Array, side: int) -> str:
    """Return the three central slices of a box side by side, as a ``data:`` address of a PNG.

    y (in the first) and z (in the others) point up, as in 3dmod.
    """
    slices = [shrink(cut, side) for cut in stretch(central_slices(box))]
    height = max(cut.shape[0] for cut in slices)
    padded = [
        np.pad(cut[::-1], ((0, height - len(cut)), (0, _GAP)), constant_values=np.nan) for cut in slices
    ]
    return data_address(_grey_png(np.hstack(padded)[:, :-_GAP]))


def data_address(picture: bytes, kind: str = "png") -> str:
    """Return a picture as the ``data:`` address of an ``<img>``."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def _grey_png(picture: Grey) -> bytes:
    """Encode grey values 0 to 1 as an 8-bit PNG; NaN is transparent.

    Written by hand since matplotlib stores grey as four channels, four times the size
    (format: https://www.w3.org/TR/png-3/, sections 5, 11.2.1 and 11.3.1.1).
    """
    levels = np.round(picture * (_LEVELS - 1)) * (256 // _LEVELS)
    pixels = np.nan_to_num(levels, nan=_CLEAR).astype(np.uint8)
    rows = np.pad(pixels, ((0, 0), (1, 0)))  # each row starts with its filter type: 0, none
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 0)
    clear = struct.pack(">H", _CLEAR)
    chunks = (
        (b"IHDR", header),
        (b"tRNS", clear),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
