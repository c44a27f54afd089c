"""Labelled particles, from a column or from one STAR file per class."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, UsageError
from cryoclass.numerals import number
from cryoclass.particles import Particles, read_particles


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Particles of one or several STAR files, one after the other, with the classes that are known.

    Attributes
    ----------
    tables
        One per STAR file.
    labels
        Class number (n,) from 0; -1 where there is no label.
    classes
        Names, in the order of the numbers: numbers by value, words by alphabet.
    """

    tables: tuple[Particles, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def tomograms(self) -> list[str]:
        """Tomogram of each particle."""
        return [name for table in self.tables for name in table.tomograms]

    @property
    def names_by_table(self) -> list[list[str | None]]:
        """Class of each row of each table; None where it has none."""
        names = [self.classes[number] if number >= 0 else None for number in self.labels.tolist()]
        ends = np.cumsum([len(table) for table in self.tables]).tolist()
        return [names[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def counts(self) -> list[int]:
        """Labelled particles of each class."""
        return [int((self.labels == number).sum()) for number in range(len(self.classes))]


def read_labelled(arguments: Sequence[str], label_column: str | None, *, needed: bool = True) -> Labelled:
    """Read ``particles.star``, or pairs such as ``ribosome=a.star junk=b.star``.

    Where no labels are needed, a file without any, and without ``label_column``, holds one class, ``particle``.

    Raises
    ------
    UsageError
        Pairs and plain files are mixed, there are several plain files, or an argument can be read as both.
    StarError, ParticleError
        A file cannot be read, or no particle has a label.
    """
    pairs = [_pair(argument) for argument in arguments]
    if not any(pairs):
        if len(arguments) > 1:
            raise UsageError(
                f"{len(arguments)} STAR files given; it must be one, or one per class.",
                "Name the classes: ribosome=a.star junk=b.star",
            )
        particles = read_particles(Path(arguments[0]))
        if not needed and label_column is None and not particles.has_label_column:
            return _number([particles], ["particle"] * len(particles))
        return from_column(particles, label_column)
    unnamed = next((a for a, pair in zip(arguments, pairs, strict=True) if pair is None), None)
    if unnamed is not None:
        raise UsageError(f"{unnamed} has no class name, but others have.", f"Write it as name={unnamed}.")
    return _from_files([pair for pair in pairs if pair])


def files_of(arguments: Sequence[str]) -> list[Path]:
    """Return the STAR files that arguments such as ``ribosome=a.star`` or ``a.star`` name."""
    pairs = [(_pair(argument), argument) for argument in arguments]
    return [Path(argument) if pair is None else pair[1] for pair, argument in pairs]


def _pair(argument: str) -> tuple[str, Path] | None:
    """Return class and file of an argument such as ``ribosome=a.star``; None where it is a plain file.

    A folder or a file may have a ``=`` in its own name: what is there under the whole of it is a file.
    """
    found = re.fullmatch(r"([^=/\\]+)=(.+)", argument)
    if found is None:
        return None
    name, path = found[1], Path(found[2])
    if not Path(argument).is_file():
        return name, path
    if path.is_file():
        raise UsageError(
            f"{argument} is a file, and so is {path}, which would be class {name}.",
            f"Write ./{argument} for the file, or {name}=./{path} for the class.",
        )
    return None


def alike(classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the classes that differ only in upper and lower case, in accents written otherwise, or in a blank for ``_``."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        key = unicodedata.normalize("NFKC", "_".join(name.split())).casefold()
        groups.setdefault(key, []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def from_column(particles: Particles, label_column: str | None) -> Labelled:
    """Take labels from a column of the particles' own file."""
    column = particles.label_column(label_column)
    texts = particles.labels(column)
    labelled = _number([particles], texts)
    if not labelled.classes:
        raise ParticleError(
            f"{particles.path}: no particle has a label in column {column}.",
            "Fill the column in, name another with --label-column, or give one STAR file per class.",
        )
    return labelled


def _from_files(pairs: Sequence[tuple[str, Path]]) -> Labelled:
    tables = [read_particles(path) for _, path in pairs]
    return _number(
        tables, [name for (name, _), table in zip(pairs, tables, strict=True) for _ in range(len(table))]
    )


def _number(tables: Sequence[Particles], texts: Sequence[str | None]) -> Labelled:
    counts = Counter(text for text in texts if text is not None)
    classes = tuple(sorted(counts, key=_natural))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([-1 if text is None else numbers[text] for text in texts])
    return Labelled(tables=tuple(tables), labels=labels, classes=classes)


def _natural(name: str) -> tuple[bool, float, str]:
    try:
        return (False, number(name), name)
    except ValueError:
        return (True, 0.0, name)
