"""The rows of one block by column, with what the optics table says of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cryoclass.errors import StarError
from cryoclass.star.document import Block, StarFile

GROUP = "rlnOpticsGroup"
TOGETHER = ("rlnTomoName", "rlnMicrographName", "rlnImageName", GROUP)  # nearly every command wants them all


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a block.

    Attributes
    ----------
    text
        The file.
    block
        Its loop that holds the rows.
    """

    text: StarFile
    block: Block

    def __len__(self) -> int:
        return len(self.block)

    def __contains__(self, label: str) -> bool:
        return label in self.block.labels

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.block.labels

    def has_all(self, labels: Sequence[str]) -> bool:
        """Whether there are all these columns."""
        return all(label in self for label in labels)

    def require(self, label: str) -> None:
        """Raise StarError, which suggests the nearest label, where there is no such column."""
        self.text.index(self.block, label)

    def cells(self, label: str) -> list[str]:
        """Return the cells of a column as text; StarError where there is no such column."""
        return (
            self._together[label] if label in self._together_labels else self.text.column(self.block, label)
        )

    def first(self, label: str) -> str:
        """Return the first cell of a column; empty where there is none."""
        if label not in self or not len(self):
            return ""
        return self.text.column(replace(self.block, rows=self.block.rows[:1]), label)[0]

    def numbers(self, labels: Sequence[str]) -> np.ndarray:
        """Return columns as float64 (rows, labels); StarError where a cell is no finite number."""
        return self.text.numbers(self.block, labels)

    @cached_property
    def optics_table(self) -> Block | None:
        """The block of the optics groups; ``None`` before RELION 3.1."""
        return self.text.block("optics")

    def optics(self, label: str) -> np.ndarray | None:
        """Return a number of each row's optics group (rows,), or ``None`` where the file has no such column.

        Raises
        ------
        StarError
            A row names an optics group that the optics table does not hold.
        """
        table = self.optics_table
        if table is None or label not in table.labels or GROUP not in self:
            return None
        values = self.text.numbers(table, [label])[:, 0]
        return np.asarray(values[self._places_in_optics])

    @property
    def used_optics(self) -> list[int]:
        """Rows of the optics table that some row belongs to; all of them where rows name no group, or there are none."""
        table = self.optics_table
        if table is None:
            return []
        if GROUP not in self or GROUP not in table.labels or not len(self):
            return list(range(len(table)))
        return sorted(set(self._places_in_optics.tolist()))

    @cached_property
    def angpix(self) -> np.ndarray | None:
        """Pixel size in angstroms of each row's image (rows,), or ``None`` where the file says none.

        The optics group's ``rlnImagePixelSize`` comes first, then the row's ``rlnPixelSize``, then
        ``10000 * rlnDetectorPixelSize / rlnMagnification``, or ``rlnDetectorPixelSize`` alone, which PyTom writes in
        angstroms, then the optics group's ``rlnMicrographPixelSize``.
        """
        for label in ("rlnImagePixelSize", "rlnPixelSize", None, "rlnMicrographPixelSize"):
            if label is None:
                values = self._magnified_pixel()
            elif label in self:
                values = self.numbers([label])[:, 0]
            else:
                values = self.optics(label)
            if values is not None and len(values) and (values > 0).all():
                return values
        return None

    @property
    def _together_labels(self) -> list[str]:
        return [label for label in TOGETHER if label in self]

    @cached_property
    def _together(self) -> dict[str, list[str]]:
        """The columns of names, split out of the text in one pass; equal names are one string in memory."""
        labels, known = self._together_labels, dict[str, str]()
        columns = self.text.columns(self.block, labels)
        return {
            label: [known.setdefault(cell, cell) for cell in column]
            for label, column in zip(labels, columns, strict=True)
        }

    @cached_property
    def _places_in_optics(self) -> np.ndarray:
        """Row (rows,) of the optics table that each particle belongs to."""
        assert self.optics_table is not None  # asked by optics()  # noqa: S101
        names = _whole(self.text.column(self.optics_table, GROUP))
        place_of = {name: place for place, name in enumerate(names)}
        groups = _whole(self.cells(GROUP))
        missing = next((row for row, group in enumerate(groups) if group not in place_of), None)
        if missing is not None:
            raise StarError(
                f"{self.text.path}, line {self.block.rows[missing] + 1}: optics group {groups[missing]} is not in "
                f"data_optics, which has {', '.join(names)}.",
                "Mend the column rlnOpticsGroup.",
            )
        return np.array([place_of[group] for group in groups], dtype=np.intp)

    @property
    def detector_in_angstroms(self) -> bool:
        """Whether ``rlnDetectorPixelSize`` stands without a magnification, as PyTom writes pixel sizes of coordinates."""
        return "rlnDetectorPixelSize" in self and "rlnMagnification" not in self

    def _magnified_pixel(self) -> np.ndarray | None:
        if self.detector_in_angstroms:
            return self.numbers(["rlnDetectorPixelSize"])[:, 0]
        labels = ("rlnDetectorPixelSize", "rlnMagnification")  # micrometres, dimensionless
        if not self.has_all(labels):
            return None
        detector, magnification = self.numbers(labels).T
        return None if (magnification <= 0).any() else 10_000 * detector / magnification


def _whole(cells: list[str]) -> list[str]:
    """Return the names of optics groups; ``1.000000``, as some programs write, is ``1``."""
    whole = {cell: re.sub(r"\.0*$", "", cell) for cell in set(cells)}
    return [whole[cell] for cell in cells]
