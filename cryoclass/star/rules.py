"""What RELION would refuse or misread in a STAR file, though cryoclass reads it.

Sources, in RELION 5.0's ``src/``: ``metadata_table.cpp`` (CR+LF 1220, labels 1054, comments and short rows 1083,
numbers 427), ``jaz/single_particle/io/star_converter.cpp`` 6 (``# version`` without optics),
``jaz/single_particle/obs_model.cpp`` 53 (what optics groups must have).
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from cryoclass.star.dialects import particle_blocks
from cryoclass.star.document import StarFile
from cryoclass.star.rows import Rows

INTEGERS = ("rlnClassNumber", "rlnRandomSubset", "rlnOpticsGroup", "rlnGroupNumber", "rlnTomoParticleId")
OPTICS = (
    ("rlnVoltage",),
    ("rlnSphericalAberration",),
    ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnTomoTiltSeriesPixelSize"),
)
_GLUED = re.compile(rb"\s*_[^\s#]+#")

Problem = tuple[str, str]


def relion_problems(rows: Rows) -> Iterator[Problem]:
    """Yield, as words and way out, each thing that RELION would refuse or misread in a particle file."""
    yield from _text_problems(rows.text)
    yield from _table_problems(rows)


def _text_problems(text: StarFile) -> Iterator[Problem]:
    if text.has_crlf:
        yield "lines end as on Windows (CR+LF), which RELION refuses", f"dos2unix {text.path}"
    if text.version is not None and text.block("optics") is None:
        yield (
            f"'# version {text.version}' without a data_optics block, which RELION refuses",
            "Delete the lines that start with # version.",
        )
    twice = [name for name, count in Counter(block.name for block in text.blocks).items() if count > 1]
    if twice:
        yield f"the block data_{twice[0]} occurs twice, and only the first is used", "Take one of them out."
    lines = (number for block in text.blocks for number in block.label_lines)
    glued = next((number for number in lines if _GLUED.match(text.lines[number])), None)
    if glued is not None:
        yield (
            f"line {glued + 1}: no blank before #, so RELION cuts the label's last letter",
            "Put one blank between label and #.",
        )


def _table_problems(rows: Rows) -> Iterator[Problem]:
    gap = next((n for n, m in pairwise(rows.block.rows) if m - n > 1), None)
    if gap is not None:
        yield f"line {gap + 2}: a comment among the rows, where RELION stops with an error", "Take it out."
    for block in particle_blocks(rows.text):
        if block.name == rows.block.name:  # twice the same name is said above
            continue
        yield (
            f"data_{block.name} holds {len(block)} particles too, which are not read: only those of data_{rows.block.name} are",
            "Write each block into a file of its own.",
        )
    optics = rows.optics_table
    if optics is None and "rlnOpticsGroup" in rows:
        yield (
            "rlnOpticsGroup without a data_optics block: RELION takes the file for one of version 3.0",
            "Add the optics table of the job that made the file.",
        )
    for labels in OPTICS:
        if optics is not None and not any(label in optics for label in labels):
            yield f"data_optics lacks {labels[0]}, without which RELION stops", "Add the column."
    yield from _integer_problems(rows)


def _integer_problems(rows: Rows) -> Iterator[Problem]:
    present = [label for label in INTEGERS if label in rows]
    for label, cells in zip(present, rows.text.columns(rows.block, present), strict=True):
        wrong = sorted(cell for cell in set(cells) if not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", cell))
        if wrong:
            count = sum(cell in wrong for cell in cells)
            yield (
                f"{label} is {wrong[0]!r} in {count} row{'s' * (count != 1)}, which RELION reads as another number, mostly 0",
                "Write whole numbers.",
            )
