"""New STAR tables of our own, which hold none of a user's rows; starfile writes them.

A user's file never takes this way: see :mod:`cryoclass.star.document`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoclass.files import write_text

Table = Mapping[str, Any]


def write_tables(path: Path, tables: Mapping[str, Table], version: int | None = None) -> None:
    """Write blocks that RELION, Warp and starfile read alike.

    Parameters
    ----------
    path
        The new STAR file.
    tables
        Block name to table. A table whose values are sequences becomes a loop, otherwise a list block. Integers are
        written without decimals, floats with six, booleans as 0 and 1 (RELION reads ``True`` and ``nan`` as 0).
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
            blocks[name] = pd.DataFrame({key: [_cell(v) for v in column] for key, column in table.items()})
        else:
            blocks[name] = {key: _cell(value) for key, value in table.items()}
    _, _, body = starfile.to_string(blocks, sep=" ").partition(
        "\n"
    )  # its first line says the time: not repeatable
    if version is None:
        return str(body)
    return str(body).replace("\ndata_", f"\n# version {version}\n\ndata_")


def _is_column(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if not np.isfinite(value):
        raise ValueError(f"{value} cannot stand in a STAR file: RELION reads it as 0.")
    return f"{float(value):.6f}"
