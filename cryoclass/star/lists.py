"""Particle lists that are no STAR files: Dynamo tables and EM motive lists, turned into a STAR table.

Column meanings: Dynamo's manual (``dtcol``), and cryoCAT's ``cryomotl.py`` for the motive lists of TOM, AV3 and
novaSTA. ``position = coordinate + shift`` there, in pixels of the tomogram.
"""

from pathlib import Path

import numpy as np

from cryoclass.errors import StarError
from cryoclass.star.document import StarFile
from cryoclass.star.tables import tables_text

DYNAMO_COLUMNS = 35
EM_HEADER_BYTES = 512
EM_ROWS = 20
_EM_FLOAT32 = 5


def read_list(path: Path) -> StarFile:
    """Read a ``.tbl`` or ``.em`` list as a STAR file with tomogram numbers, positions and classes.

    The tomogram number stands in ``rlnMicrographName``, the position (shifts added) in ``rlnCoordinateX/Y/Z``, the
    class in ``rlnClassNumber``; Dynamo's tag or the motive list's particle number in ``cryoclassTag``.

    Raises
    ------
    StarError
        The file is missing or not of its kind.
    """
    if not path.is_file():
        raise StarError(f"{path}: no such file.", "Check the path.")
    rows = _dynamo(path) if path.suffix == ".tbl" else _em(path)
    tag, tomogram, position, number = rows
    table = {
        "rlnMicrographName": [str(int(value)) for value in tomogram],
        **{f"rlnCoordinate{axis}": position[:, i] for i, axis in enumerate("XYZ")},
        "rlnClassNumber": number.astype(int),
        "cryoclassTag": tag.astype(int),
    }
    return StarFile.parse(tables_text({"particles": table}).encode(), path)


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _dynamo(path: Path) -> Rows:
    """Columns from 1: tag 1, shifts 4 to 6, tomogram 20, class 22, position 24 to 26."""
    lines = [line.split() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    widths = {len(line) for line in lines}
    if len(widths) != 1 or min(widths) < 26:
        raise StarError(
            f"{path} is not a Dynamo table: its rows have {sorted(widths) or 'no'} columns, but 26 or more are needed, "
            f"in all rows alike.",
            f"A .tbl file has {DYNAMO_COLUMNS} or more numbers per row.",
        )
    try:
        table = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise StarError(
            f"{path} is not a Dynamo table: {error}.", "A .tbl file holds numbers only."
        ) from error
    return _checked(path, (table[:, 0], table[:, 19], table[:, 23:26] + table[:, 3:6], table[:, 21]))


def _em(path: Path) -> Rows:
    """Rows from 1: particle 4, tomogram 5, position 8 to 10, shifts 11 to 13, class 20."""
    content = path.read_bytes()
    problem = f"{path} is not an EM motive list"
    if len(content) < EM_HEADER_BYTES:
        raise StarError(f"{problem}: it has only {len(content)} bytes.", "Give an .em file of 20 rows.")
    order = "<" if content[0] in (6, 1) else ">"  # 6 is a PC, 1 a VAX; the others are big-endian
    rows, count, depth = np.frombuffer(content, f"{order}i4", 3, 4).tolist()
    if content[3] != _EM_FLOAT32 or rows != EM_ROWS or depth != 1 or count < 1:
        raise StarError(
            f"{problem}: it holds {rows} x {count} x {depth} values of type {content[3]}.",
            f"A motive list has {EM_ROWS} x N x 1 values of type {_EM_FLOAT32} (float32).",
        )
    if len(content) < EM_HEADER_BYTES + 4 * rows * count:
        raise StarError(f"{problem}: it is truncated.", "Copy it again.")
    table = (
        np.frombuffer(content, f"{order}f4", rows * count, EM_HEADER_BYTES)
        .reshape(count, rows)
        .astype(np.float64)
    )
    return _checked(path, (table[:, 3], table[:, 4], table[:, 7:10] + table[:, 10:13], table[:, 19]))


def _checked(path: Path, rows: Rows) -> Rows:
    for values in rows:
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(bad):
            raise StarError(
                f"{path}, particle {bad[0] + 1}: a value is not a finite number.", "Mend that row."
            )
    return rows
