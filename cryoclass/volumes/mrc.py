"""MRC volumes as they are found in the wild.

mrcfile knows the header's layout and the data modes; the data are mapped here, since mrcfile answers a truncated file
with ``None``, refuses files without a machine stamp, and reports leniency through process-wide warnings that threads
cannot capture. Facts about each oddity: MRC2014 (Cheng et al., J. Struct. Biol. 2015) and the mrcfile documentation.
"""

import bz2
import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import data_dtype_from_header

from cryoclass.errors import VolumeError
from cryoclass.files import replacing
from cryoclass.inputs import blame, check_file, open_file
from cryoclass.machine import available_memory
from cryoclass.volumes.pixels import agree

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
XYZ = (1, 2, 3)
MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
CHUNK = 1 << 20  # bytes that are unpacked at once
_REEXPORT = "Write it again as float32 (mode 2), for example with relion_image_handler."


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume and what its header says.

    Attributes
    ----------
    path
        Where it came from.
    data
        Voxels as ``[z, y, x]`` (a stack of volumes: ``[n, z, y, x]``), of the file's own number type; memory-mapped
        and read-only where the file is not compressed.
    angpix
        Pixel size in angstroms along x; ``None`` where the header says 0 or 1, which programs write for "unknown".
    uneven
        Pixel sizes (x, y, z) in angstroms where they differ by more than 1 %.
    is_image_stack
        Whether the header says that the sections are images of their own, as those of a tilt series are.
    remarks
        What in the header was taken in a way that is worth a word.
    """

    path: Path
    data: np.ndarray
    angpix: float | None
    uneven: tuple[float, float, float] | None = None
    is_image_stack: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def voxels(self) -> np.ndarray:
        """The voxels, where a stack of volumes holds only one as those of that one."""
        return self.data[0] if self.data.ndim == 4 and len(self.data) == 1 else self.data


def open_volume(path: Path) -> Volume:
    """Map a volume without reading its voxels, in the file's own order of columns, rows and sections.

    The header may say that they are other axes than x, y and z; RELION does not look at it, and coordinates come from there.

    Raises
    ------
    VolumeError
        The file is missing, empty, no MRC file, truncated, or of a mode that holds no density; or it is compressed, and what
        its header claims does not fit into memory.
    """
    return _open(path)[0]


def _open(path: Path) -> tuple[Volume, Any]:
    """Return a volume and its header as a record."""
    try:
        check_file(path)
        with open_file(path) as file:
            start = file.read(HEADER_BYTES)
        opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
        if opener is not None:
            with opener(path) as stream:
                header = _parse_header(stream.read(HEADER_BYTES), path)
                return _volume(path, header, _unpacked(path, header, stream)), header
        header = _parse_header(start, path)
        return _volume(path, header, _mapped(path, header)), header
    except FileNotFoundError as error:
        raise VolumeError(
            f"{path}: no such volume.", "Check the path; relative paths start in the current folder."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError):
            blame(error, path)
        reason = getattr(error, "strerror", None) or error
        raise VolumeError(f"{path} cannot be read: {reason}.", "Copy it again.") from error


def _volume(path: Path, header: Any, data: np.ndarray) -> Volume:
    return Volume(
        path=path,
        data=data,
        angpix=_angpix(header),
        uneven=_uneven(header),
        is_image_stack=int(header.ispg) == 0 and int(header.mz) == 1 < int(header.nz),
        remarks=tuple(_remarks(header, path)),
    )


def read_map(path: Path) -> Volume:
    """Read a density map into memory as native float32, its axes in the order that the header says.

    Raises
    ------
    VolumeError
        As :func:`open_volume`, or the voxels hold NaN or infinity.
    """
    volume, header = _open(path)
    data = np.array(_in_zyx_order(volume.data, header, path), dtype=np.float32)
    check_finite(data, path)
    return Volume(path=path, data=data, angpix=volume.angpix)


def uneven_problem(volume: Volume, option: str) -> VolumeError:
    """Say that a header's pixel sizes differ, and with which option the right one can be given."""
    x, y, z = volume.uneven or (volume.angpix,) * 3
    return VolumeError(
        f"{volume.path}: its header says pixels of {x:.4g} x {y:.4g} x {z:.4g} A along x, y and z; z spacing and the others "
        "must be the same.",
        f"Correct the header, or say which is right with {option}.",
    )


def check_finite(data: np.ndarray, path: Path) -> None:
    """Raise a VolumeError that counts the voxels that are NaN or infinite."""
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise VolumeError(f"{path} holds {bad} voxels that are NaN or infinite.", "Compute it again.")


def write_volume(
    path: Path, data: np.ndarray, angpix: float, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write a volume as MRC2014, beside its final place and then into it.

    Parameters
    ----------
    path
        The new file.
    data
        Voxels ``[z, y, x]``.
    angpix
        Pixel size in angstroms, the same along all axes.
    dtype
        ``float32`` is mode 2; ``float16`` mode 12, which RELION reads from version 4 on.

    Raises
    ------
    VolumeError
        A voxel is NaN, infinite or too large for ``dtype``.
    OutputError
        The file cannot be written.
    """
    header = np.zeros((), HEADER_DTYPE)
    nz, ny, nx = data.shape
    header["nx"] = header["mx"] = nx
    header["ny"] = header["my"] = ny
    header["nz"] = header["mz"] = nz
    header["mode"] = 2 if dtype == "float32" else 12
    header["cella"] = (nx * angpix, ny * angpix, nz * angpix)
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"], header["nversion"] = 1, 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = np.ascontiguousarray(data, dtype="<f4" if dtype == "float32" else "<f2")
    if not np.isfinite(voxels).all():
        limit = np.finfo(voxels.dtype).max
        raise VolumeError(
            f"{path} would hold voxels that are NaN, infinite or beyond the {limit:g} of {dtype}.",
            "Normalise the volume." if dtype == "float32" else "Normalise the volume, or write float32.",
        )
    statistics = voxels.astype(np.float32, copy=False)
    header["dmin"], header["dmax"] = statistics.min(), statistics.max()
    header["dmean"], header["rms"] = statistics.mean(dtype=np.float64), statistics.std(dtype=np.float64)
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(header.tobytes())
        out.write(voxels.tobytes())


def volume_bytes(side: int, dtype: Literal["float32", "float16"]) -> int:
    """Return the size of the file that :func:`write_volume` makes of a cube."""
    return HEADER_BYTES + (2 if dtype == "float16" else 4) * side**3


def _layout(header: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape and number type of the voxels, and at which byte they start."""
    return _shape(header, path), _dtype(header, path), HEADER_BYTES + max(0, int(header.nsymbt))


def _mapped(path: Path, header: Any) -> np.ndarray:
    shape, dtype, offset = _layout(header, path)
    needed, found = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if found < needed:
        raise _truncated(path, found, needed)
    return np.memmap(path, dtype, "r", offset, shape)


def _unpacked(path: Path, header: Any, stream: Any) -> np.ndarray:
    """Unpack what the header asks for and no more: a small file may unpack to more than any memory holds."""
    shape, dtype, offset = _layout(header, path)
    size = math.prod(shape) * dtype.itemsize
    _check_memory(path, size)
    voxels = np.empty(
        size, np.uint8
    )  # memory is taken where it is written to: a header that lies costs nothing
    extended = _skip(stream, offset - HEADER_BYTES)
    filled = _fill(stream, voxels.data) if extended == offset - HEADER_BYTES else 0
    if filled < size:
        raise _truncated(path, HEADER_BYTES + extended + filled, offset + size)
    _skip(stream, CHUNK)  # a checksum stands at the very end
    data = voxels.view(dtype).reshape(shape)
    data.flags.writeable = False
    return data


def _check_memory(path: Path, size: int) -> None:
    free = available_memory()
    if size > free:
        raise VolumeError(
            f"{path}: its header claims {size / 1e9:.3g} GB of voxels, and {free / 1e9:.3g} GB of memory are free.",
            "Unpack it with gunzip or bunzip2: plain files are not read into memory. If it is far smaller, it is damaged.",
        )


def _skip(stream: Any, count: int) -> int:
    """Read up to so many bytes and forget them; return how many there were."""
    skipped = 0
    while skipped < count and (chunk := stream.read(min(CHUNK, count - skipped))):
        skipped += len(chunk)
    return skipped


def _fill(stream: Any, target: memoryview) -> int:
    """Read into memory that is there already; return how many bytes there were."""
    filled = 0
    while filled < len(target) and (count := stream.readinto(target[filled : filled + CHUNK])):
        filled += count
    return filled


def _truncated(path: Path, found: int, needed: int) -> VolumeError:
    return VolumeError(
        f"{path} is truncated: {found} bytes, but its header speaks of {needed}.", "Copy or compute it again."
    )


def _parse_header(start: bytes, path: Path) -> Any:
    """Decide the byte order by which one gives a sensible mode, size and axis order: stamps are often wrong."""
    if len(start) < HEADER_BYTES:
        what = "is empty" if not start else f"has only {len(start)} bytes, fewer than an MRC header"
        raise VolumeError(
            f"{path} {what}.", "Copy it again; if it is a git-lfs pointer, fetch the real file."
        )
    for order in "<>":
        # An array of no axes keeps the byte order in its fields, which an element taken out of one does not.
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(order), 1).reshape(()).view(np.recarray)
        sizes = (int(header.nx), int(header.ny), int(header.nz))
        if 0 <= int(header.mode) <= 101 and all(0 < n < 1_000_000 for n in sizes):
            return header
    raise VolumeError(
        f"{path} is not an MRC volume: its first words are no size and mode.",
        "Give an .mrc, .rec or .map file.",
    )


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    nz, ny, nx, mz = int(header.nz), int(header.ny), int(header.nx), int(header.mz)
    if math.prod((nz, ny, nx)) > 2**50:
        raise VolumeError(
            f"{path} claims {nx} x {ny} x {nz} voxels; its header is damaged.", "Copy it again."
        )
    if 401 <= int(header.ispg) <= 630 and mz > 0 and nz % mz == 0:
        return (nz // mz, mz, ny, nx)
    return (nz, ny, nx)


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    mode = int(header.mode)
    if mode not in MODES:
        raise VolumeError(
            f"{path} has MRC mode {mode}; densities are modes {', '.join(map(str, sorted(MODES)))}.",
            _REEXPORT,
        )
    if mode == 0 and (_is_unsigned(header) or _holds_more_than_signed(header)):
        return np.dtype("u1")
    dtype: np.dtype[Any] = data_dtype_from_header(header)
    return dtype


def _is_unsigned(header: Any) -> bool:
    """IMOD before 4.2.23 wrote unsigned bytes as mode 0 and says so in bytes 152 to 159."""
    stamp, flags = _imod_words(header)
    return stamp == IMOD_STAMP and not flags & 1


def _has_imod_stamp(header: Any) -> bool:
    return _imod_words(header)[0] == IMOD_STAMP


def _imod_words(header: Any) -> tuple[int, int]:
    extra = header.extra2.tobytes()[40:48]  # extra2 starts at byte 112
    stamp, flags = np.frombuffer(extra, "<i4" if header.mode.dtype.byteorder in "<=" else ">i4").tolist()
    return stamp, flags


def _holds_more_than_signed(header: Any) -> bool:
    """Without IMOD's stamp only the header's range tells unsigned bytes from signed ones."""
    return not _has_imod_stamp(header) and float(header.dmin) >= 0 and 127 < float(header.dmax) <= 255


def _remarks(header: Any, path: Path) -> Iterator[str]:
    """Yield what in a header was taken in a way that is worth a word."""
    if int(header.mode) == 0 and _holds_more_than_signed(header):
        yield f"its bytes are read as unsigned, since the header's largest value is {float(header.dmax):g}"
    axes = _axes(header, path)
    if axes != XYZ:
        order = ", ".join(map(str, axes))
        yield f"its axis order is {order}, but it is read in the order of the file, as RELION does"


def _axes(header: Any, path: Path) -> tuple[int, ...]:
    """Return which axes (1 is x) columns, rows and sections are; zeros mean nobody filled the fields in."""
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    if axes == (0, 0, 0):
        return XYZ
    if sorted(axes) != [1, 2, 3]:
        raise VolumeError(f"{path} has axis order {axes}; it must be a permutation of 1, 2, 3.", _REEXPORT)
    return axes


def _in_zyx_order(data: np.ndarray, header: Any, path: Path) -> np.ndarray:
    """Turn columns, rows and sections into x, y and z."""
    axes = _axes(header, path)
    if axes == XYZ:
        return data
    where = {axis: -1 - position for position, axis in enumerate(axes)}  # axis (1 = x) to array dimension
    return np.moveaxis(data, (where[3], where[2], where[1]), (-3, -2, -1))


def _uneven(header: Any) -> tuple[float, float, float] | None:
    """Return the pixel sizes where they differ; sizes by either number of sections count, since programs err with ``mz``."""
    angpix = _angpix(header)
    if angpix is None:
        return None
    y = _spacing(float(header.cella.y), (int(header.my), int(header.ny)), angpix)
    z = _spacing(float(header.cella.z), (int(header.mz), int(header.nz)), angpix)
    return None if agree(angpix, y, z) else (angpix, y, z)


def _spacing(cell: float, counts: Sequence[int], expected: float) -> float:
    """Return the cell over that count which comes nearest to what is expected; that itself where nothing is said."""
    if not (math.isfinite(cell) and cell > 0):
        return expected
    found = [cell / count for count in counts if count > 0]
    return min(found, key=lambda size: abs(math.log(size / expected)), default=expected)


def _angpix(header: Any) -> float | None:
    with np.errstate(all="ignore"):
        angpix = float(np.float64(header.cella.x) / np.float64(header.mx))
    known = math.isfinite(angpix) and angpix > 0 and not math.isclose(angpix, 1.0, abs_tol=1e-6)
    return angpix if known else None
