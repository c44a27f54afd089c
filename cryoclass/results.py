"""Predictions as columns of the user's own STAR file, and scores as JSON."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cryoclass.familiarity import UNKNOWN_SCORE
from cryoclass.files import write_text
from cryoclass.labels import Labelled
from cryoclass.outputs import Outputs, Status
from cryoclass.particles import Particles
from cryoclass.selection import Ranking, promises, ranked
from cryoclass.star.names import spelled
from cryoclass.star.optimisation import read_set
from cryoclass.star.tables import read_column, write_tables

if TYPE_CHECKING:
    from cryoclass.averages import ClassAverage

# What reads the usual table must not go on where too many particles are missing.
INCOMPLETE = "particles_incomplete.star"
WHERE_LOST = f"The table of the others is {INCOMPLETE}; skipped.csv says what is wrong."
LONGEST_NAME = 150  # bytes of a class's name in that of a file, which a disk lets have 255
HISTORY, TIMES = "history.csv", "times.csv"


def write_skipped(path: Path, particles: Particles, reasons: Mapping[int, str]) -> None:
    """Write the particles that were left out: line of the STAR file, tomogram, reason; by row number."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["star_line", "tomogram", "reason"])
    for row, reason in sorted(reasons.items()):
        table.writerow([particles.line(row), as_text(particles.tomograms[row]), as_text(reason)])
    write_text(path, out.getvalue())


def as_text(cell: str) -> str:
    """Return a cell of a CSV that a spreadsheet shows as it is: what begins as a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What is said of each row of a table.

    Attributes
    ----------
    probabilities
        (n, K) float32; zeros where the row is not done.
    classes
        The class (n,), from 0; -1 for none.
    status
        In words (n,): ``done``, ``unsure`` (less probable than asked), ``unknown`` (more unlike everything learnt than asked),
        ``unreadable``, ``not asked for``, ``not yet done``.
    unknown
        How unlike everything learnt each row is (n,), above 1 more than usual; NaN where it is not done. None where the model
        cannot tell.
    """

    probabilities: NDArray[np.float32]
    classes: NDArray[np.int64]
    status: NDArray[np.str_]
    unknown: NDArray[np.float32] | None = None

    @property
    def done(self) -> NDArray[np.int64]:
        """Rows that the network has spoken of, sure or not."""
        return np.flatnonzero(np.isin(self.status, [DONE, UNSURE, UNKNOWN]))


DONE, UNSURE, UNKNOWN, UNREADABLE = "done", "unsure", "unknown", "unreadable"
_WORDS = {
    Status.NOT_YET: "not yet done",
    Status.DONE: DONE,
    Status.UNREADABLE: UNREADABLE,
    Status.NOT_ASKED: "not asked for",
}


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a row must be like to be given a class.

    Parameters
    ----------
    min_probability
        Of its most probable class, at least.
    max_unknown
        How unlike everything learnt it may be; None where that does not count.
    """

    min_probability: float = 0.0
    max_unknown: float | None = None


def decide(outputs: Outputs, demands: Demands = Demands()) -> Decisions:
    """Give each row that is done its most probable class, where it meets the demands, as far as outputs tell."""
    probabilities = np.zeros(outputs["logits"].shape, np.float32)
    done = outputs.done
    probabilities[done] = softmax(outputs["logits"][done], axis=1)
    known = UNKNOWN_SCORE in outputs
    return _decisions(probabilities, outputs.status, demands, outputs[UNKNOWN_SCORE] if known else None)


def decide_all(probabilities: NDArray[np.float32]) -> Decisions:
    """Give each of some rows (n, K), all of them done, its most probable class."""
    return _decisions(probabilities, np.full(len(probabilities), Status.DONE, np.uint8), Demands())


def _decisions(
    probabilities: NDArray[np.float32],
    codes: NDArray[np.uint8],
    demands: Demands,
    unknown: NDArray[np.float32] | None = None,
) -> Decisions:
    status = np.array([_WORDS[Status(code)] for code in range(len(_WORDS))])[codes]
    if unknown is not None and demands.max_unknown is not None:
        status[(status == DONE) & (unknown > demands.max_unknown)] = UNKNOWN
    status[(status == DONE) & (probabilities.max(axis=1) < demands.min_probability)] = UNSURE
    classes = np.where(status == DONE, probabilities.argmax(axis=1), -1)
    return Decisions(probabilities=probabilities, classes=classes, status=status, unknown=unknown)


def prediction_columns(decisions: Decisions, classes: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that predictions add to a table.

    ``rlnClassNumber`` counts from 1 as RELION does; 0 means no class. ``rlnMaxValueProbDistribution`` is the highest
    probability, ``cryoclassClassName`` the class in words (blanks become ``_``), or the status of a row that has none,
    ``cryoclassStatus`` the status of every row, ``cryoclassProbability1`` ... one column per class, numbered as in
    ``classes.star``, and ``cryoclassUnknownScore``, where the model gives one, how unlike everything learnt a row is.
    """
    words = np.array([_one_word(name) for name in classes], dtype=object)
    status = np.array([_one_word(name) for name in decisions.status], dtype=object)
    names = np.where(decisions.classes >= 0, words[decisions.classes], status)
    columns = {
        "rlnClassNumber": [str(number) for number in (decisions.classes + 1).tolist()],
        "rlnMaxValueProbDistribution": _decimals(decisions.probabilities.max(axis=1)),
        "cryoclassClassName": names.tolist(),
        "cryoclassStatus": status.tolist(),
    }
    for number, values in enumerate(decisions.probabilities.T, 1):
        columns[f"cryoclassProbability{number}"] = _decimals(values)
    return columns if decisions.unknown is None else columns | unknown_column(decisions.unknown)


def unknown_column(scores: NDArray[np.floating]) -> dict[str, list[str]]:
    """Return the column of unknown scores (n,); ``nan`` where a row is not done."""
    return {"cryoclassUnknownScore": _decimals(scores)}


def _one_word(name: str) -> str:
    return "_".join(name.split())  # Warp splits a row at every blank


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """All that the tasks of a run say of the rows of a table.

    Attributes
    ----------
    decisions
        Classes and probabilities; None where none are told.
    classes
        Their names.
    volumes
        By the name of the output, the file of each row as the table is to name it; ``None`` in words where there is none.
    averages
        Of the classes, where they were asked for.
    """

    decisions: Decisions | None
    classes: tuple[str, ...]
    volumes: Mapping[str, list[str]]
    averages: Sequence["ClassAverage"] = ()

    @property
    def decided(self) -> Decisions:
        """The decisions of a run that tells classes."""
        assert self.decisions is not None  # it is asked for by the task alone that makes them  # noqa: S101
        return self.decisions


def names_in_table(paths: Sequence[Path], there: NDArray[np.int64], table: Path) -> list[str]:
    """Return how a table names the files of its rows (n,); ``None`` in words for those that are not among the rows ``there``."""
    known = set(there.tolist())
    return [spelled(path, table) if row in known else "None" for row, path in enumerate(paths)]


def explanation_columns(told: Told) -> dict[str, list[str]]:
    """Return the column that names, for each row, the volume of what spoke for its class; nothing where none was written."""
    return {"cryoclassExplanationName": told.volumes["explanation"]} if "explanation" in told.volumes else {}


def held_out_columns(
    said: Mapping[str, NDArray[np.float32]], classes: Sequence[str], outputs: Collection[str]
) -> dict[str, list[str]]:
    """Return the columns that a table of scored particles gets.

    Parameters
    ----------
    said
        What tasks keep for their scores, by name.
    classes
        Names of the classes.
    outputs
        Names of the network's outputs; what else was kept are figures.
    """
    columns = (
        prediction_columns(decide_all(said["probabilities"]), classes) if "probabilities" in said else {}
    )
    columns |= unknown_column(said[UNKNOWN_SCORE]) if UNKNOWN_SCORE in said else {}
    for name, values in said.items():
        if name not in outputs:
            columns[f"cryoclass{''.join(word.capitalize() for word in name.split('_'))}"] = _decimals(values)
    return columns


def write_history(folder: Path, records: Sequence[Any]) -> None:
    """Write the dataclasses of a history as CSV, one line each: ``history.csv``, and ``times.csv`` beside it.

    A field of named numbers becomes a column for each of them.
    Fields that take no part in comparisons are times. They stand in a file of their own, each line with the first field of its
    record, so that the other is the same for all runs that did the same.
    """
    every = fields(records[0])
    names = [line.name for line in every if line.compare]
    times = [every[0].name, *(line.name for line in every if not line.compare)]
    _write_columns(folder / HISTORY, records, names)
    _write_columns(folder / TIMES, records, times)


def _write_columns(path: Path, records: Sequence[Any], names: Sequence[str]) -> None:
    lines = [_flat({name: getattr(record, name) for name in names}) for record in records]
    out = io.StringIO()
    table = csv.DictWriter(
        out, [*dict.fromkeys(name for line in lines for name in line)], lineterminator="\n"
    )
    table.writeheader()
    table.writerows(lines)
    write_text(path, out.getvalue())


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """Put named numbers in the place of a mapping that holds them."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def write_held_out(
    path: Path, labelled: Labelled, rows: NDArray[np.int64], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write the particles that a training was scored on, with what is said of them.

    From one STAR file, they are its own rows with all that stood in them; from one file per class, whose columns may
    differ, a table that names file and line of each.

    Parameters
    ----------
    path
        The new STAR file.
    labelled
        All labelled particles.
    rows
        Those that are written.
    columns
        What is said of them, in the order of ``rows``.
    """
    columns = {**columns, "cryoclassLabel": [labelled.classes[number] for number in labelled.labels[rows]]}
    if len(labelled.tables) == 1:
        labelled.tables[0].select(rows.tolist()).with_columns(columns).write(path)
        return
    starts = np.cumsum([0, *(len(table) for table in labelled.tables)])
    which = np.searchsorted(starts, rows, side="right") - 1
    lines = [labelled.tables[w].line(row - starts[w]) for w, row in zip(which, rows, strict=True)]
    files = [spelled(table.path, path) for table in labelled.tables]
    origin = {"cryoclassFile": [files[w] for w in which], "cryoclassLine": lines}
    write_tables(path, {"particles": {**origin, **columns}})


def write_metrics(path: Path, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Write all scores of each part of the particles as JSON."""
    write_text(path, json.dumps(metrics, indent=2) + "\n")


def write_classes(path: Path, assigned: np.ndarray, classes: Sequence[str]) -> None:
    """Write number, name and count of each class."""
    counts = [int((assigned == number).sum()) for number in range(len(classes))]
    table = {
        "cryoclassClassNumber": list(range(1, len(classes) + 1)),
        "cryoclassClassName": list(classes),
        "cryoclassClassCount": counts,
    }
    write_tables(path, {"classes": table})


def read_classes(path: Path) -> list[str]:
    """Return the names of the classes that :func:`write_classes` has written, in the order of their numbers.

    Raises
    ------
    StarError
        There is no such file, or it is none of those.
    """
    return read_column(path, "classes", "cryoclassClassName")


def expected_precision_column(count: int, ranking: Ranking) -> dict[str, list[str]]:
    """Return the column that says of each of ``count`` rows which share is expected to be right of it and all that are more probable.

    ``nan`` for rows that take no part in the ranking.
    """
    expected = np.full(count, np.nan)
    expected[ranking.rows] = ranking.precision
    return {"cryoclassExpectedPrecision": _decimals(expected)}


def write_thresholds(path: Path, decisions: Decisions, classes: Sequence[str]) -> None:
    """Write, for each class, what is expected of the particles above each of some thresholds of its probability.

    Particles that are unlike everything learnt (unknown score above 1) take no part, as in ``select``.
    """
    usual = np.isin(np.arange(len(decisions.status)), decisions.done)
    if decisions.unknown is not None:
        usual &= decisions.unknown <= 1
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    figures = ("threshold", "kept", "precision", "low", "high", "recall", "false")
    table.writerow(["class", *figures])
    for number, name in enumerate(classes):
        for promise in promises(ranked(decisions.probabilities, number, usual)):
            numbers = [getattr(promise, figure) for figure in figures]
            table.writerow([as_text(name), *(f"{n:.4f}" if isinstance(n, float) else n for n in numbers)])
    write_text(path, out.getvalue())


def write_split(outdir: Path, table: Particles, decisions: Decisions, classes: Sequence[str]) -> list[Path]:
    """Write one STAR file per class that has particles, and one per reason for having none; all keep every other block."""
    parts = {class_stem(number, name): decisions.classes == number for number, name in enumerate(classes)}
    parts |= {
        f"class000_{_one_word(status)}": decisions.status == status
        for status in np.unique(decisions.status).tolist()
        if status != DONE
    }
    written = []
    for name, chosen in parts.items():
        if chosen.any():
            written.append(outdir / f"{name}.star")
            table.select(np.flatnonzero(chosen).tolist()).write(written[-1])
    return written


def write_optimisation_sets(table: Particles, tomograms: Path | None, written: Sequence[Path]) -> list[Path]:
    """Write an optimisation set for each written particle file, where the input came with one.

    Parameters
    ----------
    table
        The input.
    tomograms
        What the user gave for the tomograms; it may be an optimisation set too.
    written
        Particle files made from the input.
    """
    original = table.optimisation_set or (read_set(tomograms) if tomograms else None)
    return [original.write_for(star) for star in written] if original else []


def _decimals(values: np.ndarray) -> list[str]:
    return [f"{value:.6f}" for value in values.tolist()]


def class_stem(number: int, name: str) -> str:
    """Return how the names of a class's files begin; ``number`` counts from 0."""
    return f"class{number + 1:03d}_{_file_name(name)}"


def _file_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return plain.encode()[:LONGEST_NAME].decode(errors="ignore")
