"""The particle table: the values of a user's file, and the ways back into its own text."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError
from cryoclass.numerals import number
from cryoclass.star.extracted import (
    OFFSETS,
    BoxPlaces,
    ExtractedBoxes,
    frames_to_write,
    with_boxes,
    with_places,
)
from cryoclass.star.frames import Frame, origins_in_tomogram
from cryoclass.star.names import (
    SUFFIXES,
    Finder,
    names_meant,
    respelled,
    split_index,
    stated_angpix,
)
from cryoclass.star.optimisation import OptimisationSet
from cryoclass.star.particle_file import ParticleFile, read_particle_file
from cryoclass.star.tables import DENSITY_COLUMN, MASK_COLUMN

IMAGE = "rlnImageName"
IMAGE_COLUMNS = (IMAGE, "rlnCtfImage", "rlnReconstructImageName", MASK_COLUMN, DENSITY_COLUMN)
TOMOGRAM_NAME = "rlnTomoName"
PATH_COLUMNS = (*IMAGE_COLUMNS, "rlnMicrographName", TOMOGRAM_NAME, "rlnTomoReconstructedTomogram")
"""Columns whose cells may be files; a name of a tomogram is one only where it ends as volumes do."""

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
LABEL_COLUMNS = ("cryoclassLabel", "rlnClassNumber")
UNLABELLED = {
    "",
    "unlabelled",
    "unlabeled",
    "unknown",
    "none",
    "nan",
    "-nan",
    "null",
    "<na>",
    "n/a",
    "?",
    "-1",
    "-999",
}


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """The image of a particle.

    Attributes
    ----------
    name
        As in the table, without the number.
    path
        Where it was found; ``None`` where it does not exist.
    number
        Which volume of a stack, from 1; ``None`` where the file is one volume.
    """

    name: str
    path: Path | None
    number: int | None


@dataclass(frozen=True, kw_only=True)
class Particles:
    """The particles of a file; row numbers (from 0) are their key to the very end.

    Attributes
    ----------
    file
        The user's text behind the values; nothing but this class reaches into it.
    """

    file: ParticleFile

    def __len__(self) -> int:
        return len(self.file.rows)

    # ------------------------------------------------------------------------------ what file it is

    @property
    def path(self) -> Path:
        """The file that holds the table."""
        return self.file.path

    @property
    def optimisation_set(self) -> OptimisationSet | None:
        """The file that ties the particles to their tomograms, where there is one."""
        return self.file.optimisation_set

    @property
    def dialect(self) -> str:
        """What kind of file it is, such as ``RELION 3.1``."""
        return self.file.dialect.name

    def in_words(self) -> str:
        """Return kind, frame of the coordinates and kind of images as one sentence for people."""
        return self.file.dialect.in_words()

    @property
    def bright(self) -> bool:
        """Whether the program that made the file (Warp, M) makes particles brighter than the background."""
        return self.file.dialect.bright

    @property
    def stacks_2d(self) -> bool:
        """Whether the images are stacks of tilt images, no volumes."""
        return self.file.dialect.stacks_2d

    def relion_problems(self) -> Iterator[tuple[str, str]]:
        """Yield, as words and way out, each thing that RELION would refuse or misread in the file."""
        return self.file.relion_problems()

    def lacking(self, labels: Sequence[str]) -> list[str]:
        """Return those columns that stand neither with the particles nor in another table of the file."""
        return [label for label in labels if not self.file.names_anywhere(label)]

    # --------------------------------------------------------------------------------------- columns

    def has(self, label: str) -> bool:
        """Whether there is a column of that name."""
        return label in self.file.rows

    def cells(self, label: str) -> list[str]:
        """Return a column as text; StarError where there is none."""
        return self.file.rows.cells(label)

    def numbers(self, labels: Sequence[str]) -> np.ndarray:
        """Return columns as float64 (n, labels); StarError where one is missing, or a cell is no finite number."""
        return self.file.rows.numbers(labels)

    def line(self, row: int) -> int:
        """Return the line of the file, from 1, on which a row stands."""
        return self.file.line(row)

    # ---------------------------------------------------------------------------------------- places

    @property
    def frame(self) -> Frame | None:
        """What the coordinates count, and from where, or most likely so; ``None`` where there are none."""
        return self.file.dialect.frame

    @property
    def rivals(self) -> tuple[Frame, ...]:
        """What else they may count by all that the file says; only the volumes can tell."""
        return self.file.dialect.rivals

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All that they may count, the likeliest first.

        Raises
        ------
        ParticleError
            The file has no coordinates.
        """
        assert len(self.coordinates) == len(self)  # reading raises where there are none  # noqa: S101
        return (*filter(None, [self.frame]), *self.rivals)

    @property
    def frames_in_words(self) -> str:
        """What the coordinates count, and what else they may count; empty where there are none."""
        return self.file.dialect.frames_in_words

    @property
    def names_tomograms(self) -> bool:
        """Whether the file says in which tomogram a particle lies."""
        return bool(self.file.dialect.tomogram)

    @cached_property
    def tomograms(self) -> list[str]:
        """Name of each particle's tomogram, as in the file; empty strings where it has no such column."""
        return self.file.tomograms()

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Coordinates (n, 3) x, y, z as in the file; what they count is :attr:`frame`.

        Raises
        ------
        ParticleError
            The file has none.
        """
        found = self.file.coordinates()
        if found is None:
            raise ParticleError(
                f"{self.path} has no coordinates (rlnCoordinateX/Y/Z or rlnCenteredCoordinateX/Y/ZAngst).",
                "Boxes can only be cut where a file says where its particles are.",
            )
        return found

    @cached_property
    def origins(self) -> np.ndarray | None:
        """Refined origins (n, 3) x, y, z in angstroms, in the tomogram's axes; ``None`` where there are none."""
        origins = self.file.origins()
        return None if origins is None else origins_in_tomogram(origins, self.orientation)

    @cached_property
    def orientation(self) -> np.ndarray | None:
        """How subtomograms are rotated in their tomograms (n, 3): rot, tilt, psi in degrees; ``None`` for not at all."""
        return self.file.orientation()

    @cached_property
    def angles(self) -> np.ndarray | None:
        """How particles lie in their boxes (n, 3): rot, tilt, psi in degrees; ``None`` where the file does not say."""
        return self.numbers(ANGLES) if all(map(self.has, ANGLES)) else None

    @cached_property
    def box_offsets(self) -> np.ndarray:
        """Where particles lie from the centres of the boxes that the file names (n, 3) x, y, z in angstroms, in the boxes' axes.

        Origins say it where there are some: refined against boxes, they hold what ``extract`` had left over too.
        """
        origins = self.file.origins()
        if origins is not None:
            return -origins
        return self.numbers(OFFSETS) if all(map(self.has, OFFSETS)) else np.zeros((len(self), 3))

    # ---------------------------------------------------------------------------------------- optics

    @property
    def angpix(self) -> np.ndarray | None:
        """Pixel size in angstroms of each particle's image (n,); ``None`` where the file says none."""
        return self.file.rows.angpix

    @cached_property
    def named_angpix(self) -> np.ndarray | None:
        """Pixel size in angstroms in the name of each particle's tomogram (n,); ``None`` where one has none."""
        sizes = {name: stated_angpix(name) for name in set(self.tomograms)}
        if None in sizes.values():
            return None
        return np.array([sizes[name] for name in self.tomograms], dtype=np.float64)

    @cached_property
    def tilt_series_angpix(self) -> np.ndarray | None:
        """Unbinned pixel size in angstroms of each particle's tilt series (n,); ``None`` where the file says none."""
        return self.file.rows.optics("rlnTomoTiltSeriesPixelSize")

    @cached_property
    def micrograph_angpix(self) -> np.ndarray | None:
        """Pixel size in angstroms of each particle's micrograph (n,); ``None`` where the file says none."""
        return self.file.rows.optics("rlnMicrographPixelSize")

    @cached_property
    def image_size(self) -> np.ndarray | None:
        """Side in pixels of each particle's image (n,); ``None`` where the file says none."""
        return self.file.rows.optics("rlnImageSize")

    # ---------------------------------------------------------------------------------------- images

    @property
    def has_images(self) -> bool:
        """Whether the file names images."""
        return self.has(IMAGE)

    @cached_property
    def images(self) -> list[str]:
        """Image of each particle, as in the file.

        Raises
        ------
        ParticleError
            The file has no image column.
        """
        if not self.has_images:
            raise ParticleError(
                f"{self.path} names no images (no column rlnImageName); it is {self.in_words()}.",
                "Give --tomograms to cut the boxes on the fly, or run cryoclass extract first.",
            )
        return self.cells(IMAGE)

    def find(self, name: str) -> Path | None:
        """Find a file that the table names: from the current folder, the table's folder and its parents."""
        return self._finder.find(name)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.path)

    def image(self, row: int) -> ImageFile:
        """Return the image of a row; the name is looked for as by :meth:`find`."""
        return self.image_file(self.images[row])

    def image_file(self, cell: str) -> ImageFile:
        """Return the file, or the place in a stack, that a cell names; looked for as by :meth:`find`."""
        index, name = split_index(cell)
        return ImageFile(name=name, path=self.find(name), number=int(index[:-1]) if index else None)

    # -------------------------------------------------------------------------------------- identity

    def image_keys(self) -> Iterator[tuple[str, int] | None]:
        """Yield what the image of each row is, however it is spelt; ``None`` where there is none.

        That is its path, with links followed, and its number in a stack or 0.
        """
        folders: dict[Path, str] = {}
        for row in range(len(self)):
            image = self.image(row) if self.has_images else None
            if image is None or image.path is None:
                yield None
                continue
            folder = image.path.parent
            if folder not in folders:  # a million images lie in few
                folders[folder] = os.path.realpath(folder)
            path = f"{folders[folder]}{os.sep}{image.path.name}"
            yield os.path.realpath(path) if os.path.islink(path) else path, image.number or 0  # noqa: PTH114

    def named(self, row: int) -> str:
        """Return what to call a particle in a message: its image as in the file, else tomogram and coordinates."""
        if self.has_images:
            return self.images[row]
        place = " ".join(
            f"{axis}={value:g}" for axis, value in zip("xyz", self.coordinates[row], strict=True)
        )
        return f"{self.tomograms[row]} {place}".strip()

    # ---------------------------------------------------------------------------------------- labels

    @property
    def has_own_labels(self) -> bool:
        """Whether there is the column of labels that only people fill in."""
        return self.has(LABEL_COLUMNS[0])

    @property
    def has_label_column(self) -> bool:
        """Whether there is one of the usual columns of labels."""
        return any(map(self.has, LABEL_COLUMNS))

    def label_column(self, asked: str | None) -> str:
        """Return the column that holds labels: the asked one, else the first of the usual ones."""
        if asked is not None:
            self.file.rows.require(asked.lstrip("_"))
            return asked.lstrip("_")
        found = next(filter(self.has, LABEL_COLUMNS), None)
        if found == "rlnClassNumber" and self.has("cryoclassClassName"):
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
        return [_label(cell, first) for cell in self.cells(column)]

    # -------------------------------------------------------------------------------------- ways out

    def select(self, rows: Sequence[int]) -> "Particles":
        """Return the particles of some rows; their text keeps all its other blocks."""
        return replace(self, file=self.file.select(rows))

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> "Particles":
        """Return the particles with columns added or replaced, all else as it was."""
        return replace(self, file=self.file.with_columns(columns))

    def with_boxes(self, boxes: ExtractedBoxes) -> "Particles":
        """Return the particles that were cut, with all that describes their boxes, all else as it was."""
        return replace(self, file=with_boxes(self.file, boxes))

    @property
    def frames_to_write(self) -> tuple[Frame, ...]:
        """In which frames coordinates of particles that were cut may be understood, the likeliest first."""
        return frames_to_write(self.file)

    def with_places(self, places: BoxPlaces) -> "Particles":
        """Return particles that were cut, with where their boxes lie."""
        return replace(self, file=with_places(self.file, places))

    def write(self, path: Path) -> None:
        """Write the text beside ``path`` and move it into place; the files that it names are found from there."""
        self._for_place(path).file.write(path)

    def _for_place(self, path: Path) -> "Particles":
        """Return the particles with the files that they name as a table at ``path`` must name them."""
        changed = {}
        for label in filter(self.has, PATH_COLUMNS):
            if label == TOMOGRAM_NAME and self.optimisation_set is not None:
                continue  # there it is a key to the list of tomograms
            cells = self.cells(label)
            paths = cells if label in IMAGE_COLUMNS else [c for c in cells if c.lower().endswith(SUFFIXES)]
            words = respelled(paths, self.path, path)
            if words:
                changed[label] = [words.get(cell, cell) for cell in cells]
        return self.with_columns(changed) if changed else self


def read_particles(path: Path) -> Particles:
    """Read a particle STAR file of any dialect, the one that an optimisation set names, a ``.tbl`` or an ``.em`` list.

    Raises
    ------
    StarError
        No such file, no STAR file, or no particles in it; the message says what it is instead.
    """
    return Particles(file=read_particle_file(path))


def tomogram_keys(tables: Sequence[Particles]) -> list[list[str]]:
    """Return what the tomogram of each row of each table is, however it is spelt: equal for one and the same.

    Names are compared as :func:`cryoclass.star.names.names_meant` does; two that lead to two volumes are two.
    """
    names = [list(dict.fromkeys(table.tomograms)) for table in tables]
    meant = names_meant(names)
    files = [{name: table.find(name) for name in own} for table, own in zip(tables, names, strict=True)]
    real = [{name: str(path.resolve()) for name, path in own.items() if path} for own in files]
    volumes: dict[str, set[str]] = {}
    for own in real:
        for name, path in own.items():
            volumes.setdefault(meant[name], set()).add(path)
    return [
        [
            own.get(name, meant[name]) if len(volumes.get(meant[name], ())) > 1 else meant[name]
            for name in table.tomograms
        ]
        for table, own in zip(tables, real, strict=True)
    ]


def _label(cell: str, first: float) -> str | None:
    try:
        value = number(cell)
    except ValueError:
        value = math.inf  # a word
    text = str(int(value)) if value.is_integer() and "." in cell else cell
    unlabelled = text.strip().lower() in UNLABELLED or value < first
    return None if unlabelled else text
