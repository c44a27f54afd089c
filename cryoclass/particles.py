"""The particle table: a user's STAR file, understood and kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, StarError
from cryoclass.star.dialects import OLD_ORIGINS, ORIENTATION, Dialect, detect, image_angpix, optics_column
from cryoclass.star.document import Block, StarFile
from cryoclass.star.frames import origins_in_tomogram
from cryoclass.star.lists import read_list
from cryoclass.star.optimisation import PARTICLES, listed_file, set_beside

LISTS = (".tbl", ".em")
LABEL_COLUMNS = ("cryoclassLabel", "rlnClassNumber")
UNLABELLED = {
    "",
    "unlabelled",
    "unlabeled",
    "unknown",
    "none",
    "nan",
    "null",
    "<na>",
    "n/a",
    "?",
    "-1",
    "-999",
}


@dataclass(frozen=True, kw_only=True)
class Particles:
    """The particles of a STAR file; row numbers (from 0) are their key to the very end.

    Attributes
    ----------
    star, block
        The file as it was read, and the block that holds the particles.
    dialect
        What kind of file it is.
    optimisation_set
        The file that ties the particles to their tomograms, where there is one.
    """

    star: StarFile
    block: Block
    dialect: Dialect
    optimisation_set: StarFile | None = None

    def __len__(self) -> int:
        return len(self.block)

    @property
    def path(self) -> Path:
        """The STAR file."""
        return self.star.path

    @cached_property
    def tomograms(self) -> list[str]:
        """Name of each particle's tomogram, as in the file; empty strings where it has no such column."""
        label = self.dialect.tomogram
        return self.star.column(self.block, label) if label in self.block.labels else [""] * len(self)

    @cached_property
    def images(self) -> list[str]:
        """Image of each particle, as in the file.

        Raises
        ------
        ParticleError
            The file has no image column.
        """
        if "rlnImageName" not in self.block.labels:
            raise ParticleError(
                f"{self.path} names no images (no column rlnImageName); it is {self.dialect.in_words()}.",
                "Give --tomograms to cut the boxes on the fly, or run cryoclass extract first.",
            )
        return self.star.column(self.block, "rlnImageName")

    @cached_property
    def angpix(self) -> np.ndarray | None:
        """Pixel size in angstroms of each particle's image (n,); ``None`` where the file says none."""
        return image_angpix(self.star, self.block)

    @cached_property
    def tilt_series_angpix(self) -> np.ndarray | None:
        """Unbinned pixel size in angstroms of each particle's tilt series (n,); ``None`` where the file says none."""
        return optics_column(self.star, self.block, "rlnTomoTiltSeriesPixelSize")

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Coordinates (n, 3) x, y, z as in the file; what they count is ``dialect.frame``.

        Raises
        ------
        ParticleError
            The file has none.
        """
        if self.dialect.frame is None:
            raise ParticleError(
                f"{self.path} has no coordinates (rlnCoordinateX/Y/Z or rlnCenteredCoordinateX/Y/ZAngst).",
                "Boxes can only be cut where a file says where its particles are.",
            )
        return self.star.numbers(self.block, self.dialect.coordinates)

    @cached_property
    def origins(self) -> np.ndarray | None:
        """Refined origins (n, 3) x, y, z in angstroms, in the tomogram's axes; ``None`` where there are none."""
        labels = self.dialect.origins
        if not labels:
            return None
        origins = self.star.numbers(self.block, labels)
        if labels == OLD_ORIGINS and origins.any():
            if self.angpix is None:
                raise ParticleError(f"{self.path}: rlnOriginX/Y/Z count pixels of a size that is not stated.")
            origins = origins * self.angpix[:, None]
        return origins_in_tomogram(origins, self.orientation)

    @cached_property
    def orientation(self) -> np.ndarray | None:
        """How subtomograms are rotated in their tomograms (n, 3): rot, tilt, psi in degrees; ``None`` for not at all."""
        rotated = all(label in self.block.labels for label in ORIENTATION)
        return self.star.numbers(self.block, ORIENTATION) if rotated else None

    def label_column(self, asked: str | None) -> str:
        """Return the column that holds labels: the asked one, else the first of the usual ones."""
        if asked is not None:
            self.star.index(self.block, asked.lstrip("_"))
            return asked.lstrip("_")
        found = next((label for label in LABEL_COLUMNS if label in self.block.labels), None)
        if found == "rlnClassNumber" and "cryoclassClassName" in self.block.labels:
            raise ParticleError(
                f"{self.path} has no labels: its rlnClassNumber is what cryoclass predicted.",
                "Fill in a column cryoclassLabel, or insist with --label-column rlnClassNumber.",
            )
        if found is None:
            raise ParticleError(
                f"{self.path} has no labels: no column {' or '.join(LABEL_COLUMNS)}.",
                "Name the column with --label-column, or give one STAR file per class: ribosome=a.star junk=b.star",
            )
        return found

    def labels(self, column: str) -> list[str | None]:
        """Return each particle's label as text; ``None`` where it has none.

        Empty cells, ``unlabelled``, ``unknown``, ``none``, ``nan``, ``null``, ``-1`` and ``-999`` mean none; so does 0
        in ``rlnClassNumber``, whose classes start at 1. Whole numbers lose their decimals (``1.000000`` is ``1``).
        """
        first = 1 if column == "rlnClassNumber" else -math.inf
        return [_label(cell, first) for cell in self.star.column(self.block, column)]

    def select(self, rows: Sequence[int]) -> "Particles":
        """Return the particles of some rows; their STAR file keeps all its other blocks."""
        star = self.star.with_rows(self.block, rows)
        block = next(
            b for old, b in zip(self.star.blocks, star.blocks, strict=True) if old.line == self.block.line
        )
        return replace(self, star=star, block=block)

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> "Particles":
        """Return the particles with columns added or replaced, all else as it was."""
        star = self.star.with_columns(self.block, columns)
        if star.version is not None and star.block("optics") is None:
            star = star.without_versions()
        block = next(
            b for old, b in zip(self.star.blocks, star.blocks, strict=True) if old.line == self.block.line
        )
        return replace(self, star=star, block=block)


def read_particles(path: Path) -> Particles:
    """Read a particle STAR file of any dialect, the one that an optimisation set names, a ``.tbl`` or an ``.em`` list.

    Raises
    ------
    StarError
        No such file, no STAR file, or no particles in it; the message says what it is instead.
    """
    given = read_list(path) if path.suffix in LISTS else StarFile.read(path)
    star = listed_file(given, PARTICLES)
    optimisation_set = given if given is not star else set_beside(path)
    dialect, block = detect(star)
    if not len(block):
        raise StarError(
            f"{star.path} has no particles: its table is empty.", "Give a file with at least one row."
        )
    return Particles(star=star, block=block, dialect=dialect, optimisation_set=optimisation_set)


def _label(cell: str, first: float) -> str | None:
    try:
        number = float(cell)
    except ValueError:
        number = math.inf  # a word
    text = str(int(number)) if number.is_integer() and "." in cell else cell
    unlabelled = text.strip().lower() in UNLABELLED or math.isnan(number) or number < first
    return None if unlabelled else text
