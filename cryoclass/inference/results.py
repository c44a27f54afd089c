"""Predictions as columns of the user's own STAR file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoclass.inference.pipeline import Predictions
from cryoclass.particles import Particles
from cryoclass.star.tables import write_tables

UNSURE = "unsure"
UNREADABLE = "unreadable"


def assign(predictions: Predictions, min_probability: float = 0.0) -> np.ndarray:
    """Return the class of each particle (n,), from 0; -1 where unreadable or less probable than asked."""
    best = predictions.probabilities.argmax(axis=1)
    sure = predictions.probabilities.max(axis=1) >= max(min_probability, np.finfo(np.float32).tiny)
    return np.where(sure, best, -1)


def prediction_columns(
    predictions: Predictions, assigned: np.ndarray, classes: Sequence[str]
) -> dict[str, list[str]]:
    """Return the columns that ``predict`` adds.

    ``rlnClassNumber`` counts from 1 as RELION does; 0 means unsure or unreadable. ``rlnMaxValueProbDistribution`` is
    the highest probability, ``cryoclassClassName`` the class in words, ``cryoclassProbability1`` ... one column per
    class, numbered as in ``classes.star``.
    """
    names = np.array([*classes, UNSURE], dtype=object)[assigned]
    names[list(predictions.unreadable)] = UNREADABLE
    columns = {
        "rlnClassNumber": [str(number) for number in (assigned + 1).tolist()],
        "rlnMaxValueProbDistribution": _decimals(predictions.probabilities.max(axis=1)),
        "cryoclassClassName": names.tolist(),
    }
    for number, values in enumerate(predictions.probabilities.T, 1):
        columns[f"cryoclassProbability{number}"] = _decimals(values)
    return columns


def write_classes(path: Path, assigned: np.ndarray, classes: Sequence[str]) -> None:
    """Write number, name and count of each class."""
    counts = [int((assigned == number).sum()) for number in range(len(classes))]
    table = {
        "cryoclassClassNumber": list(range(1, len(classes) + 1)),
        "cryoclassClassName": list(classes),
        "cryoclassClassCount": counts,
    }
    write_tables(path, {"classes": table})


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


def _decimals(values: np.ndarray) -> list[str]:
    return [f"{value:.6f}" for value in values.tolist()]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
