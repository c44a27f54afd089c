"""STAR files as text that survives a round trip.

The lines of a file are kept as bytes. Cells are split out only when asked for, and an edit touches only the lines it
must: the labels of the block and, in each row, the column that is added or replaced. Everything else (comments,
quotes, padding, the order of blocks and columns, ``# version`` lines) stays as it was, byte for byte.

The rules are RELION's (``metadata_table.cpp``, ``strings.cpp`` of version 5.0): one row is one line, a loop ends at
its first blank line, ``#`` starts a comment only at the start of a token, quotes count only at the start of a token
and end before a blank, and a bell character keeps a quote from ending there.
"""

import codecs
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from cryoclass import numerals
from cryoclass.errors import StarError
from cryoclass.files import replacing
from cryoclass.inputs import read_file

_TOKEN = re.compile(rb"""\s*(?:"(.*?)(?<!\a)"(?=\s|$)|'(.*?)(?<!\a)'(?=\s|$)|([^\s#]\S*))""")
_VERSION = re.compile(rb"\s*#\s*version\s+(\d{1,9})")
_BLANK = re.compile(r"\s")
_NEEDS_CARE = re.compile(rb"""["'#]""")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Where a block's parts lie in the lines of its file.

    Attributes
    ----------
    name
        What follows ``data_``.
    labels
        Column names of the loop, in order, without the leading underscore.
    items
        Values of a list block (``_label value`` lines).
    label_lines, rows
        Line numbers, from 0, of the loop's labels and of its rows.
    """

    name: str
    line: int
    labels: tuple[str, ...] = ()
    items: Mapping[str, str]
    label_lines: tuple[int, ...] = ()
    rows: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, label: str) -> bool:
        return label in self.labels or label in self.items


@dataclass(frozen=True, kw_only=True)
class StarFile:
    """A STAR file: its lines, and the blocks found in them.

    Attributes
    ----------
    path
        Where it came from; used in messages.
    lines
        The file split at its line feeds, as bytes.
    blocks
        In the order of the file. RELION uses only the first block of a name.
    """

    path: Path
    lines: Sequence[bytes]
    blocks: tuple[Block, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and parse a file.

        Raises
        ------
        StarError
            The file is missing, unreadable, or holds no STAR block.
        """
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise StarError(f"{path}: no such file.", _nearest_file(path)) from None
        except OSError as error:
            raise StarError(f"{path} cannot be read: {error.strerror}.", "Give a STAR file.") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Parse the bytes of a file; a byte-order mark, which some editors put first, is no part of it."""
        content = content.removeprefix(codecs.BOM_UTF8)
        if b"\0" in content[:100_000]:
            raise StarError(f"{path} is not a STAR file: it holds binary data.", "Give a .star text file.")
        lines = content.split(b"\n")
        blocks = _Parser(lines, path).blocks()
        if not blocks:
            what = "it is empty" if not content.strip() else "no line starts with data_"
            raise StarError(f"{path} is not a STAR file: {what}.", "Give a .star file.")
        return cls(path=path, lines=lines, blocks=tuple(blocks))

    def block(self, name: str) -> Block | None:
        """Return the first block of that name."""
        return next((block for block in self.blocks if block.name == name), None)

    @property
    def has_crlf(self) -> bool:
        """Whether lines end as on Windows, which is a fatal error for RELION."""
        return any(line.endswith(b"\r") for line in self.lines)

    @property
    def version(self) -> int | None:
        """Number of the first ``# version`` comment; ``None`` means RELION 3.0 or another program."""
        for line in self.lines[:100]:
            if match := _VERSION.match(line):
                return int(match[1])
        return None

    def columns(self, block: Block, labels: Sequence[str]) -> list[list[str]]:
        """Return the cells of some columns, as text, quotes removed.

        Raises
        ------
        StarError
            A column is missing (the nearest label is suggested), or a row has too few or too many values.
        """
        wanted = [self.index(block, label) for label in labels]
        count = len(block.labels)
        found: list[list[str]] = [[] for _ in labels]
        for number in block.rows:
            cells = split_row(self.lines[number])
            if len(cells) != count:
                raise StarError(
                    f"{self.path}, line {number + 1}: {len(cells)} values for {count} columns.",
                    "Mend that line.",
                )
            for column, position in zip(found, wanted, strict=True):
                column.append(cells[position].decode("utf-8", "surrogateescape"))
        return found

    def column(self, block: Block, label: str) -> list[str]:
        """Return the cells of one column, as text."""
        return self.columns(block, [label])[0]

    def numbers(self, block: Block, labels: Sequence[str]) -> np.ndarray:
        """Return columns as float64, shape (rows, labels).

        Raises
        ------
        StarError
            A cell is not a finite number; file, line and column are named.
        """
        columns = self.columns(block, labels)
        table = _as_numbers(columns).reshape(len(labels), len(block)).T
        if not np.isfinite(table).all():
            self._complain_about_number(block, labels, columns)
        return table

    def index(self, block: Block, label: str) -> int:
        """Return the position of a column, from 0."""
        if label in block.labels:
            return block.labels.index(label)
        near = difflib.get_close_matches(label, block.labels, n=1, cutoff=0.6)
        hint = (
            f"Did you mean {near[0]}?" if near else f"Its columns are: {', '.join(block.labels) or 'none'}."
        )
        raise StarError(f"{self.path}: block data_{block.name} has no column {label}.", hint)

    def with_columns(self, block: Block, columns: Mapping[str, Sequence[str]]) -> Self:
        """Return a file in which the block has these columns: replaced where they exist, else appended.

        Windows line ends become LF and the ``#N`` of the block's labels become right, since RELION and Warp would
        misread the file otherwise. Nothing else changes.
        """
        lines = _without_carriage_returns(self.lines)
        fresh = [label for label in columns if label not in block.labels]
        for label in columns:
            if label in block.labels:
                position = block.labels.index(label)
                for number, value in zip(block.rows, columns[label], strict=True):
                    span = self._span(lines[number], position, number)
                    lines[number] = _replace_cell(lines[number], span, quote(value, first=not position))
        if fresh:
            cells = zip(*(map(quote, columns[label]) for label in fresh), strict=True)
            for number, values in zip(block.rows, cells, strict=True):
                lines[number] = _append_cells(lines[number], b" ".join(values))
        labels = (*block.labels, *fresh)
        shape = _label_style(lines, block)
        for position, number in enumerate(block.label_lines):
            lines[number] = _number_label(lines[number], position + 1, shape)
        added = [shape(label, position + 1) for position, label in enumerate(labels)][len(block.labels) :]
        after = block.label_lines[-1] + 1
        return self._reparsed([*lines[:after], *added, *lines[after:]], block, labels, len(added))

    def without_column(self, block: Block, label: str) -> Self:
        """Return a file in which the block lacks a column; the numbers of the labels behind it move up."""
        position = self.index(block, label)
        lines = _without_carriage_returns(self.lines)
        for number in block.rows:
            start, end = self._span(lines[number], position, number)
            lines[number] = lines[number][:start] + lines[number][end:]
        gone = block.label_lines[position]
        kept = [line for line in block.label_lines if line != gone]
        style = _label_style(lines, block)
        for count, number in enumerate(kept, 1):
            lines[number] = _number_label(lines[number], count, style)
        return self.parse(b"\n".join([*lines[:gone], *lines[gone + 1 :]]), self.path)

    def with_rows(self, block: Block, keep: Iterable[int]) -> Self:
        """Return a file whose block holds only the rows of these numbers (from 0), in this order.

        Comments among the rows, which RELION cannot read, go.
        """
        lines = _without_carriage_returns(self.lines)
        first, last = (block.rows[0], block.rows[-1] + 1) if len(block) else (block.label_lines[-1] + 1,) * 2
        kept = [lines[block.rows[row]] for row in keep]
        smaller = replace(block, rows=range(first, first + len(kept)))
        after = [_moved(b, last - 1, len(kept) - (last - first)) for b in self.blocks]
        blocks = tuple(
            smaller if old.line == block.line else new for old, new in zip(self.blocks, after, strict=True)
        )
        return replace(self, lines=[*lines[:first], *kept, *lines[last:]], blocks=blocks)

    def with_item(self, block: Block, label: str, value: str) -> Self:
        """Return a file in which a list block's ``_label value`` line has another value."""
        if label not in block.items:
            raise StarError(f"{self.path}: block data_{block.name} has no item {label}.")
        lines = _without_carriage_returns(self.lines)
        name = b"_" + label.encode("utf-8", "surrogateescape")
        number = next(n for n in range(block.line + 1, len(lines)) if lines[n].split()[:1] == [name])
        lines[number] = _replace_cell(lines[number], self._span(lines[number], 1, number), quote(value))
        return self.parse(b"\n".join(lines), self.path)

    def with_loop(self, block: Block) -> Self:
        """Return a file in which a list block is a loop of one row, which means the same to RELION.

        Comments of the block come to stand before the loop.
        """
        lines = _without_carriage_returns(self.lines)
        others = [other.line for other in self.blocks if other.line > block.line]
        end = min(others, default=len(lines))
        own = lines[block.line + 1 : end]
        kept = [line for line in own if not line.lstrip().startswith(b"_")]
        labels = [
            f"_{label} #{number}".encode("utf-8", "surrogateescape")
            for number, label in enumerate(block.items, 1)
        ]
        row = b" ".join(quote(value, first=not place) for place, value in enumerate(block.items.values()))
        loop = [*kept, b"loop_", *labels, row, b""]
        return self.parse(b"\n".join([*lines[: block.line + 1], *loop, *lines[end:]]), self.path)

    def without_versions(self) -> Self:
        """Return a file without ``# version`` comments, which RELION refuses in a particle file that has no optics."""
        lines, blocks = _without_carriage_returns(self.lines), self.blocks
        gone = [number for number, line in enumerate(lines) if _VERSION.match(line)]
        for number in reversed(gone):  # a comment is no label and no row: these only move up
            del lines[number]
            blocks = tuple(_moved(block, number, -1) for block in blocks)
        return replace(self, lines=lines, blocks=blocks)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return b"\n".join(self.lines)

    def write(self, path: Path) -> None:
        """Write the file beside ``path`` and move it into place."""
        with replacing(path) as temporary, temporary.open("wb") as out:
            out.write(self.to_bytes())

    def _reparsed(self, lines: list[bytes], block: Block, labels: tuple[str, ...], added: int) -> Self:
        """Update the blocks' line numbers after ``added`` label lines went into ``block``."""
        last_label = block.label_lines[-1]
        label_lines = (*block.label_lines, *range(last_label + 1, last_label + 1 + added))
        wider = replace(_moved(block, last_label, added), labels=labels, label_lines=label_lines)
        moved = (_moved(other, last_label, added) for other in self.blocks)
        blocks = tuple(
            wider if old.line == block.line else new for old, new in zip(self.blocks, moved, strict=True)
        )
        return replace(self, lines=lines, blocks=blocks)

    def _span(self, line: bytes, position: int, number: int) -> tuple[int, int]:
        """Return where the cell of a column stands in a line, with the blanks before it."""
        if not _NEEDS_CARE.search(line) and (match := _nth_cell(position).match(line)):
            return match.span(1)
        tokens = _tokens(line)
        if position < len(tokens):
            return tokens[position].span()
        raise StarError(
            f"{self.path}, line {number + 1}: {len(tokens)} values, but value {position + 1} is to be changed.",
            "Mend that line.",
        )

    def _complain_about_number(self, block: Block, labels: Sequence[str], columns: list[list[str]]) -> None:
        for label, column in zip(labels, columns, strict=True):
            for row, cell in enumerate(column):
                if not _is_finite(cell):
                    raise StarError(
                        f"{self.path}, line {block.rows[row] + 1}, column {label}: {cell!r} is not a finite number.",
                        "Mend that line, or take the row out.",
                    )


def split_row(line: bytes) -> list[bytes]:
    """Split a row into its cells, with RELION's rules for quotes and comments."""
    if not _NEEDS_CARE.search(line):
        return line.split()
    return [match[3] if match[3] is not None else _unescaped(match) for match in _tokens(line)]


def quote(value: str, *, first: bool = False) -> bytes:
    """Return a cell as it must stand in a file: quoted where blanks, emptiness or a leading quote would mislead.

    At the start of a row (``first``), ``_`` would make it a label and ``;`` a comment.
    """
    special = "\"'#_;" if first else "\"'#"
    if value and not _BLANK.search(value) and value[0] not in special:
        return value.encode("utf-8", "surrogateescape")
    text = re.sub(r"[\r\n\t]", " ", value)
    mark = "'" if '"' in text and "'" not in text else '"'
    text = re.sub(rf"{mark}(?=\s)", "\a" + mark, text)  # as RELION does: else the cell would end there
    return f"{mark}{text}{mark}".encode("utf-8", "surrogateescape")


def _unescaped(token: re.Match[bytes]) -> bytes:
    text = token[1] if token[1] is not None else token[2]
    return text.replace(b"\a", b"")


def _tokens(line: bytes) -> list[re.Match[bytes]]:
    matches, position = [], 0
    while match := _TOKEN.match(line, position):
        matches.append(match)
        position = match.end()
    return matches


@lru_cache(maxsize=64)
def _nth_cell(position: int) -> re.Pattern[bytes]:
    """Match a row without quotes and comments up to a cell; much faster than all its tokens."""
    return re.compile(rb"(?:\s*+\S++){%d}(\s*+\S++)" % position)


def _replace_cell(line: bytes, span: tuple[int, int], value: bytes) -> bytes:
    """Put ``value`` in place of a cell; padding is eaten where it is longer, so that columns stay aligned."""
    before, end = span
    start = end - len(line[before:end].lstrip())
    spare = len(value) - (end - start)
    if spare > 0:
        start -= min(spare, max(0, start - before - 1))
    elif spare < 0 and before:
        value = b" " * -spare + value
    return line[:start] + value + line[end:]


def _append_cells(line: bytes, cells: bytes) -> bytes:
    if b"#" in line:
        tokens = _tokens(line)
        end = tokens[-1].end() if tokens else len(line)
        return line[:end] + b" " + cells + line[end:]
    return line + cells + b" " if line.endswith((b" ", b"\t")) else line + b" " + cells


def _without_carriage_returns(lines: Sequence[bytes]) -> list[bytes]:
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


LabelStyle = Callable[[str, int], bytes]


def _label_style(lines: Sequence[bytes], block: Block) -> LabelStyle:
    """RELION ends label lines with a blank, other programs do not; new labels follow their block."""
    tail = " " if lines[block.label_lines[0]].endswith(b" ") else ""
    return lambda label, number: f"_{label} #{number}{tail}".encode("utf-8", "surrogateescape")


def _number_label(line: bytes, number: int, style: LabelStyle) -> bytes:
    label, *rest = line.split()
    right = rest[:1] == [b"#%d" % number] and b"#" not in label
    return line if right else style(label.split(b"#")[0][1:].decode("utf-8", "surrogateescape"), number)


def _moved(block: Block, after: int, by: int) -> Block:
    """Return the block with all line numbers greater than ``after`` raised by ``by``."""
    if not by:
        return block

    def shift(number: int) -> int:
        return number + by if number > after else number

    rows = block.rows
    if isinstance(rows, range):
        rows = range(shift(rows.start), shift(rows.start) + len(rows)) if len(rows) else rows
    else:
        rows = tuple(shift(row) for row in rows)
    return replace(
        block, line=shift(block.line), label_lines=tuple(shift(line) for line in block.label_lines), rows=rows
    )


def _as_numbers(columns: Sequence[Sequence[str]]) -> np.ndarray:
    """Return cells as float64; all NaN where one is no number."""
    none = np.full((len(columns), len(columns[0]) if columns else 0), np.nan)
    if not all(map(numerals.in_digits, columns)):
        return none
    try:
        return np.array(columns, dtype=np.float64)
    except ValueError:  # such as 1-2; whoever asked for numbers looks for the cell, and names it
        return none


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(numerals.number(cell))
    except ValueError:
        return False


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist."
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return f"The folder {path.parent} cannot be read."
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"Did you mean {path.parent / near[0]}?" if near else "Check the path."


class _Parser:
    """One pass over the lines, block by block."""

    def __init__(self, lines: Sequence[bytes], path: Path) -> None:
        self.lines, self.path = lines, path

    def blocks(self) -> list[Block]:
        found, number = [], 0
        while number < len(self.lines):
            text = self.lines[number].strip()
            if text.startswith(b"data_"):
                block, number = self._block(text[5:].decode("utf-8", "surrogateescape"), number)
                found.append(block)
            else:
                number += 1
        return found

    def _block(self, name: str, start: int) -> tuple[Block, int]:
        items: dict[str, str] = {}
        number = start + 1
        while number < len(self.lines):
            text = self.lines[number].strip()
            if text.startswith(b"data_"):
                break
            if text == b"loop_" or text.startswith((b"loop_ ", b"loop_\t")):
                return self._loop(Block(name=name, line=start, items=items), number + 1)
            if text.startswith(b"_"):
                items.update([self._item(text, number)])
            elif text and not text.startswith((b"#", b";")):
                raise self._error(number, "is neither a label, a value, a comment nor a block")
            number += 1
        return Block(name=name, line=start, items=items), number

    def _item(self, text: bytes, number: int) -> tuple[str, str]:
        cells = [cell.decode("utf-8", "surrogateescape") for cell in split_row(text)]
        if len(cells) > 2:
            raise self._error(number, "has more than one value for its label")
        return cells[0][1:], cells[1] if len(cells) == 2 else ""

    def _loop(self, block: Block, number: int) -> tuple[Block, int]:
        labels, label_lines = [], []
        while number < len(self.lines):
            text = self.lines[number].strip()
            if text.startswith(b"_"):
                labels.append(text.split()[0].split(b"#")[0][1:].decode("utf-8", "surrogateescape"))
                label_lines.append(number)
            elif text and not text.startswith((b"#", b";")):
                break
            number += 1
        if not labels:
            raise self._error(min(number, len(self.lines) - 1), "follows loop_ but is no _label")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise StarError(
                f"{self.path}: block data_{block.name} has column {twice} twice.", "Rename one of them."
            )
        rows, number = self._rows(number, len(labels))
        return replace(block, labels=tuple(labels), label_lines=tuple(label_lines), rows=rows), number

    def _rows(self, number: int, width: int) -> tuple[Sequence[int], int]:
        """Rows run to the first blank line; what follows must then be another block."""
        first, rows, comments = number, [], False
        lines, count = self.lines, len(self.lines)
        while number < count:
            line = lines[number]
            if not line or line.isspace():
                break
            if line.lstrip().startswith((b"#", b"data_", b"loop_")):
                text = line.strip()
                if text.startswith(b"#"):
                    comments = True
                    number += 1
                    continue
                if len(text.split()) == 1 and (width > 1 or text == b"loop_" or text.startswith(b"data_")):
                    break
            rows.append(number)
            number += 1
        self._check_what_follows(number)
        return (tuple(rows) if comments else range(first, first + len(rows))), number

    def _check_what_follows(self, number: int) -> None:
        for later in range(number, len(self.lines)):
            text = self.lines[later].strip()
            if text.startswith((b"data_", b"loop_", b"_")):
                return
            if text and not text.startswith((b"#", b";")):
                raise self._error(later, "is a row after a blank line, where RELION stops reading")

    def _error(self, number: int, what: str) -> StarError:
        shown = self.lines[number].strip()[:60].decode("utf-8", "replace")
        return StarError(f"{self.path}, line {number + 1}: {shown!r} {what}.", "Mend that line.")
