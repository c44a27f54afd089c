"""New STAR tables of our own, which hold none of a user's rows; starfile writes them.

A user's file never takes this way: see :mod:`cryoclass.star.document`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoclass.errors import StarError
from cryoclass.files import write_text
from cryoclass.star.document import StarFile, quote

Table = Mapping[str, Any]

DECIMALS = 6
"""Of every float in a table."""

MASK_COLUMN, DENSITY_COLUMN = "cryoclassMaskName", "cryoclassDensityName"
"""Columns that name a volume for each particle: which voxels belong to it, and its density without noise."""


def write_tables(path: Path, tables: Mapping[str, Table], version: int | None = None) -> None:
    """Write blocks that RELION, Warp and starfile read alike.

    Parameters
    ----------
    path
        The new STAR file.
    tables
        Block name to table. A table whose values are sequences becomes a loop, otherwise a list block. Integers are
        written without decimals, floats with :data:`DECIMALS`, booleans as 0 and 1 (RELION reads ``True`` and ``nan`` as 0).
    version
        RELION's ``# version`` number (30001 for 3.1 and 4, 50001 for 5), before every block. RELION refuses a
        particle file that has one but no ``data_optics``.
    """
    write_text(path, tables_text(tables, version))


def tables_text(tables: Mapping[str, Table], version: int | None = None) -> str:
    """Return the text that :func:`write_tables` writes."""
    import pandas as pd
    import starfile

    blocks: dict[str, Any] = {}
    for name, table in tables.items():
        if any(_is_column(value) for value in table.values()):
            columns = enumerate(table.items())
            blocks[name] = pd.DataFrame(
                {key: [_cell(v, first=not i) for v in column] for i, (key, column) in columns}
            )
        else:
            blocks[name] = {key: _cell(value) for key, value in table.items()}
    # Cells come quoted, since starfile knows blanks and emptiness only; a tab never stands in one.
    text = starfile.to_string(blocks, sep="\t", quote_character="")
    body = str(text).partition("\n")[2]  # its first line says the time: not repeatable
    if version is None:
        return body
    names = "|".join(map(re.escape, tables))
    return re.sub(rf"^data_({names})$", rf"# version {version}\n\n\g<0>", body, flags=re.MULTILINE)


def read_column(path: Path, block: str, label: str) -> list[str]:
    """Return a column of a block of a STAR file.

    Raises
    ------
    StarError
        There is no such file, block or column.
    """
    star = StarFile.read(path)
    found = star.block(block)
    if found is None or label not in found:
        raise StarError(
            f"{path} holds no column {label} in a block data_{block}.", "Run the command that wrote it again."
        )
    return star.column(found, label)


def _is_column(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _cell(value: Any, *, first: bool = False) -> str:
    if isinstance(value, str):
        return quote(value, first=first).decode("utf-8", "surrogateescape")
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if not np.isfinite(value):
        raise ValueError(f"{value} cannot stand in a STAR file: RELION reads it as 0.")
    return f"{float(value):.{DECIMALS}f}"
