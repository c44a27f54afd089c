"""Predictions as columns of the user's own STAR file, and scores as JSON."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.files import write_text
from cryoclass.metrics import Metrics
from cryoclass.particles import Particles
from cryoclass.star.optimisation import read_set, write_set
from cryoclass.star.tables import write_tables

UNSURE = "unsure"
UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A particle that was left out, and why."""

    row: int
    tomogram: str
    reason: str


def write_skipped(path: Path, particles: Particles, skipped: Sequence[Skipped]) -> None:
    """Write the particles that were left out: line of the STAR file, tomogram, reason."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["star_line", "tomogram", "reason"])
    for item in sorted(skipped, key=lambda item: item.row):
        table.writerow([particles.block.rows[item.row] + 1, item.tomogram, item.reason])
    write_text(path, out.getvalue())


def decide(probabilities: np.ndarray, min_probability: float = 0.0) -> np.ndarray:
    """Return the class of each particle (n,), from 0; -1 where less probable than asked, or unreadable (all zeros)."""
    sure = probabilities.max(axis=1) >= max(min_probability, float(np.finfo(np.float32).tiny))
    return np.where(sure, probabilities.argmax(axis=1), -1)


def prediction_columns(
    probabilities: np.ndarray, assigned: np.ndarray, classes: Sequence[str], unreadable: Collection[int] = ()
) -> dict[str, list[str]]:
    """Return the columns that predictions add to a table.

    ``rlnClassNumber`` counts from 1 as RELION does; 0 means unsure or unreadable. ``rlnMaxValueProbDistribution`` is
    the highest probability, ``cryoclassClassName`` the class in words (blanks become ``_``),
    ``cryoclassProbability1`` ... one column per class, numbered as in ``classes.star``.

    Parameters
    ----------
    probabilities
        (n, K), in the order of the table.
    assigned
        Class of each particle (n,) from 0, -1 for none.
    classes
        Names.
    unreadable
        Rows that had no usable box.
    """
    words = ["_".join(name.split()) for name in classes]  # Warp splits a row at every blank
    names = np.array([*words, UNSURE], dtype=object)[assigned]
    names[list(unreadable)] = UNREADABLE
    columns = {
        "rlnClassNumber": [str(number) for number in (assigned + 1).tolist()],
        "rlnMaxValueProbDistribution": _decimals(probabilities.max(axis=1)),
        "cryoclassClassName": names.tolist(),
    }
    for number, values in enumerate(probabilities.T, 1):
        columns[f"cryoclassProbability{number}"] = _decimals(values)
    return columns


def write_metrics(path: Path, metrics: Mapping[str, Metrics]) -> None:
    """Write all scores of each part of the particles as JSON."""
    content = {part: scores.to_dict() for part, scores in metrics.items()}
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_classes(path: Path, assigned: np.ndarray, classes: Sequence[str]) -> None:
    """Write number, name and count of each class."""
    counts = [int((assigned == number).sum()) for number in range(len(classes))]
    table = {
        "cryoclassClassNumber": list(range(1, len(classes) + 1)),
        "cryoclassClassName": list(classes),
        "cryoclassClassCount": counts,
    }
    write_tables(path, {"classes": table})


def remove_earlier(outdir: Path) -> None:
    """Remove what an earlier prediction wrote and this one may not: its scores, and the files of its classes."""
    for old in (outdir / "metrics.json", *outdir.glob("class[0-9][0-9][0-9]_*.star")):
        old.unlink(missing_ok=True)


def write_split(outdir: Path, table: Particles, assigned: np.ndarray, classes: Sequence[str]) -> list[Path]:
    """Write one STAR file per class that has particles, and one for those of no class; all keep every other block."""
    written = []
    for number in [*range(len(classes)), -1]:
        rows = np.flatnonzero(assigned == number)
        if not len(rows):
            continue
        name = f"class{number + 1:03d}_{_file_name(classes[number])}" if number >= 0 else f"class000_{UNSURE}"
        written.append(outdir / f"{name}.star")
        table.select(rows.tolist()).star.write(written[-1])
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
    return [write_set(original, star) for star in written] if original else []


def _decimals(values: np.ndarray) -> list[str]:
    return [f"{value:.6f}" for value in values.tolist()]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
