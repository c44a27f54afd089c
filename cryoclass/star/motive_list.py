"""EM motive lists of TOM, AV3 and novaSTA (``.em``); what their rows mean stands in cryoCAT's ``cryomotl.py``."""

from pathlib import Path

import numpy as np

from cryoclass.errors import StarError
from cryoclass.star.document import StarFile
from cryoclass.star.lists import ListedParticles, read_listed

EM_HEADER_BYTES = 512
EM_ROWS = 20
_EM_FLOAT32 = 5


def read_motive_list(path: Path) -> StarFile:
    """Read a motive list as a STAR file: rows, from 1, particle 4, tomogram 5, position 8 to 10, shifts 11 to 13, class 20.

    Raises
    ------
    StarError
        The file is missing or not of its kind.
    """
    content = read_listed(path)
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
    return ListedParticles(
        tag=table[:, 3],
        tomogram=table[:, 4],
        position=table[:, 7:10] + table[:, 10:13],
        class_number=table[:, 19],
    ).as_star(path)
