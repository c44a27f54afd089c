"""Dynamo tables (``.tbl``); what their columns mean stands in Dynamo's manual (``dtcol``)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoclass.errors import StarError
from cryoclass.numerals import number
from cryoclass.star.document import StarFile
from cryoclass.star.lists import ListedParticles, read_listed

DYNAMO_COLUMNS = 35
USED = (0, 3, 4, 5, 19, 21, 23, 24, 25)  # from 0
TOMOGRAM_MAP = "indices_column20.doc"


def read_dynamo(path: Path) -> StarFile:
    """Read a Dynamo table as a STAR file: columns, from 1, tag 1, shifts 4 to 6, tomogram 20, class 22, position 24 to 26.

    Column 20 is an index. Where ``indices_column20.doc``, which Dynamo writes, lies beside the table, it names the volumes.

    Raises
    ------
    StarError
        The file is missing or not of its kind, or the map of tomograms lacks one.
    """
    text = read_listed(path).decode("utf-8", "replace")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    widths = {len(line) for line in lines}
    if len(widths) != 1 or min(widths) < 26:
        raise StarError(
            f"{path} is not a Dynamo table: its rows have {sorted(widths) or 'no'} columns, but 26 or more are needed, "
            f"in all rows alike.",
            f"A .tbl file has {DYNAMO_COLUMNS} or more numbers per row.",
        )
    table = _numbers(lines, path)
    return ListedParticles(
        tag=table[:, 0],
        tomogram=_named(table[:, 19], path),
        position=table[:, 23:26] + table[:, 3:6],
        class_number=table[:, 21],
    ).as_star(path)


def _numbers(lines: Sequence[Sequence[str]], path: Path) -> np.ndarray:
    """Return the columns that are used; MATLAB may have left NaN in the others."""
    table = np.zeros((len(lines), max(USED) + 1))
    for row, line in enumerate(lines):
        for column in USED:
            try:
                table[row, column] = number(line[column])
            except ValueError as error:
                raise StarError(
                    f"{path} is not a Dynamo table: in row {row + 1}, column {column + 1}, {error}.",
                    "A .tbl file holds numbers only.",
                ) from error
    return table


def _named(numbers: np.ndarray, table: Path) -> np.ndarray | list[str]:
    """Return the volumes that Dynamo's map, ``index path`` line by line, gives for tomogram numbers; they where it is not."""
    listing = table.with_name(TOMOGRAM_MAP)
    if not listing.is_file():
        return numbers
    lines = [line.split(maxsplit=1) for line in listing.read_text("utf-8", "surrogateescape").splitlines()]
    volumes = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    missing = sorted({f"{number:g}" for number in numbers} - set(volumes))
    if missing:
        raise StarError(
            f"{table}: tomogram {missing[0]} is not in {listing}, which has {', '.join(volumes) or 'none'}.",
            f"Mend {listing.name}, or move it away to go by numbers.",
        )
    return [volumes[f"{number:g}"] for number in numbers]
