"""Dynamo tables (``.tbl``); what their columns mean stands in Dynamo's manual (``dtcol``)."""

from pathlib import Path

import numpy as np

from cryoclass.errors import StarError
from cryoclass.star.document import StarFile
from cryoclass.star.lists import ListedParticles, require_file

DYNAMO_COLUMNS = 35


def read_dynamo(path: Path) -> StarFile:
    """Read a Dynamo table as a STAR file: columns, from 1, tag 1, shifts 4 to 6, tomogram 20, class 22, position 24 to 26.

    Raises
    ------
    StarError
        The file is missing or not of its kind.
    """
    require_file(path)
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
    return ListedParticles(
        tag=table[:, 0],
        tomogram=table[:, 19],
        position=table[:, 23:26] + table[:, 3:6],
        class_number=table[:, 21],
    ).as_star(path)
