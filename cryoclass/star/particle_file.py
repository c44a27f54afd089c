"""The door to tables of particles, in and out: what a file is and its values, and its own text with columns or rows changed.

Another format is one more reader in :data:`READERS`: a file that turns it into a STAR table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, StarError
from cryoclass.star.dialects import OLD_ORIGINS, ORIENTATION, Dialect, detect
from cryoclass.star.document import StarFile
from cryoclass.star.dynamo import read_dynamo
from cryoclass.star.foreign import refusal
from cryoclass.star.motive_list import read_motive_list
from cryoclass.star.optimisation import PARTICLES, OptimisationSet, listed_file, set_beside
from cryoclass.star.rows import Rows
from cryoclass.star.rules import Problem, relion_problems

READERS = {".tbl": read_dynamo, ".em": read_motive_list}  # all else is a STAR file


@dataclass(frozen=True, kw_only=True)
class ParticleFile:
    """A table of particles: the user's text, and what it is.

    Attributes
    ----------
    rows
        The particles' rows in that text.
    dialect
        What kind of file it is.
    optimisation_set
        The file that ties the particles to their tomograms, where there is one.
    """

    rows: Rows
    dialect: Dialect
    optimisation_set: OptimisationSet | None = None

    @classmethod
    def of(cls, text: StarFile, optimisation_set: OptimisationSet | None = None) -> "ParticleFile":
        """Say what a text is; StarError where it holds no particles, or a row of the optics groups is broken."""
        dialect, rows = detect(text)
        if rows.optics_table is not None:
            rows.text.columns(rows.optics_table, [])  # else it would be found when results are written
        return cls(rows=rows, dialect=dialect, optimisation_set=optimisation_set)

    @property
    def path(self) -> Path:
        """Where it came from."""
        return self.rows.text.path

    def line(self, row: int) -> int:
        """Return the line, from 1, on which a row stands."""
        return self.rows.block.rows[row] + 1

    def names_anywhere(self, label: str) -> bool:
        """Whether any loop of the file, such as that of the optics groups, has this column."""
        return any(label in block.labels for block in self.rows.text.blocks)

    def relion_problems(self) -> Iterator[Problem]:
        """Yield, as words and way out, each thing that RELION would refuse or misread."""
        return relion_problems(self.rows)

    # ------------------------------------------------------------------------------------- values

    def tomograms(self) -> list[str]:
        """Return the tomogram of each row; empty strings where the file has no such column."""
        label = self.dialect.tomogram
        return self.rows.cells(label) if label in self.rows else [""] * len(self.rows)

    def coordinates(self) -> np.ndarray | None:
        """Return coordinates (rows, 3) x, y, z in the dialect's frame; ``None`` where there are none."""
        return None if self.dialect.frame is None else self.rows.numbers(self.dialect.coordinates)

    def orientation(self) -> np.ndarray | None:
        """Return the rotation of the subtomograms (rows, 3): rot, tilt, psi in degrees; ``None`` for not at all."""
        return self.rows.numbers(ORIENTATION) if self.rows.has_all(ORIENTATION) else None

    def origins(self) -> np.ndarray | None:
        """Return origins (rows, 3) x, y, z in angstroms, in the subtomogram's axes; ``None`` where there are none.

        Raises
        ------
        ParticleError
            They count pixels of a size that the file does not say.
        """
        labels = self.dialect.origins
        if not labels:
            return None
        origins = self.rows.numbers(labels)
        if labels != OLD_ORIGINS or not origins.any():
            return origins
        if self.rows.angpix is None:
            raise ParticleError(f"{self.path}: rlnOriginX/Y/Z count pixels of a size that is not stated.")
        return np.asarray(origins * self.rows.angpix[:, None])

    # ------------------------------------------------------------------------------------ ways out

    def select(self, rows: Sequence[int]) -> "ParticleFile":
        """Return the file with some rows (from 0) only, in this order, and the optics groups that they use.

        A group that no row uses makes RELION 5 crash. All other blocks stay.
        """
        fewer = self.with_text(self.rows.text.with_rows(self.rows.block, rows))
        used, optics = fewer.rows.used_optics, fewer.rows.optics_table
        if optics is None or len(used) == len(optics):
            return fewer
        return fewer.with_text(fewer.rows.text.with_rows(optics, used))

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> "ParticleFile":
        """Return the file with columns replaced or appended, all else as it was."""
        text = self.rows.text.with_columns(self.rows.block, columns)
        if text.version is not None and self.rows.optics_table is None:
            text = text.without_versions()
        return self.with_text(text)

    def without_column(self, label: str) -> "ParticleFile":
        """Return the file without a column."""
        return self.with_text(self.rows.text.without_column(self.rows.block, label))

    def with_text(self, text: StarFile) -> "ParticleFile":
        """Return the file with another text that has the same blocks, in the same order."""
        place = self.rows.text.blocks.index(self.rows.block)
        return replace(self, rows=Rows(text=text, block=text.blocks[place]))

    def write(self, path: Path) -> None:
        """Write the text beside ``path`` and move it into place."""
        self.rows.text.write(path)


def _read_star(path: Path) -> StarFile:
    """Read a STAR file; what is none is named for what it is."""
    try:
        return StarFile.read(path)
    except StarError as problem:
        raise refusal(path) or problem from None


def read_particle_file(path: Path) -> ParticleFile:
    """Read a STAR file of any dialect, the one that an optimisation set names, a ``.tbl`` or an ``.em`` list.

    Raises
    ------
    StarError
        No such file, no STAR file, or no particles in it; the message says what it is instead.
    """
    given = READERS.get(path.suffix.lower(), _read_star)(path)
    text = listed_file(given, PARTICLES)
    together = set_beside(path) if text is given else OptimisationSet(text=given)
    found = ParticleFile.of(text, together)
    if not len(found.rows):
        raise StarError(
            f"{found.path} has no particles: its table is empty.", "Give a file with at least one row."
        )
    return found
