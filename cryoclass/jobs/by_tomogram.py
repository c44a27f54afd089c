"""Classes by tomogram: the table, the tomograms that are unlike the others, and pictures of a few."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.errors import VolumeError
from cryoclass.files import write_text
from cryoclass.particles import Particles
from cryoclass.progress import Listener
from cryoclass.report.content import TomogramPicture, TomogramRow, TomogramTable
from cryoclass.report.images import shrink
from cryoclass.results import Decisions, as_text
from cryoclass.sections import Slab, crops_of, grey_values, slab_of
from cryoclass.sources import Boxes
from cryoclass.tallies import FEWEST_PARTICLES, Outlier, Tally, outliers, tally, too_few

PICTURES = 6
SIDE = 480  # pixels of a picture, at most
MOST_WARNINGS = 10
HEADER = (
    *("tomogram", "classified", "no class", "unreadable"),
    *("mean_probability", "mean_probability_low", "mean_probability_high", "unlike_the_others"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByTomogram:
    """What was found by tomogram.

    Attributes
    ----------
    counted
        Particles by tomogram and class.
    odd
        Tomograms that are unlike the others; None where that could not be told.
    untold
        Why it could not be told; empty where it could.
    """

    counted: Tally
    odd: tuple[Outlier, ...] | None
    untold: str


def look_at_tomograms(
    table: Particles, decisions: Decisions, classes: Sequence[str], boxes: Boxes, listener: Listener
) -> ByTomogram | None:
    """Count classes by tomogram and name those tomograms that are unlike the others; None where the table names no tomograms."""
    if not any(table.tomograms):
        return None
    crops = crops_of(boxes.source)
    counted = tally(table.tomograms, decisions, len(classes), grey_values(crops) if crops else {})
    odd = outliers(counted, classes)
    if odd is None:
        listener.note(too_few(counted))
        return ByTomogram(counted=counted, odd=None, untold=f"{too_few(counted)}.")
    for outlier in odd[:MOST_WARNINGS]:
        listener.warn(f"{outlier}.")
    if len(odd) > MOST_WARNINGS:
        listener.warn(f"{len(odd) - MOST_WARNINGS} more tomograms are unlike the others: see tomograms.csv.")
    return ByTomogram(counted=counted, odd=tuple(odd), untold="")


def write_tomograms(path: Path, found: ByTomogram, classes: Sequence[str]) -> None:
    """Write a line for each tomogram: its particles, mean probability, why it is unlike the others, and particles of each class."""
    counted, words = found.counted, {one.index: "; ".join(one.reasons) for one in found.odd or ()}
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([*HEADER, *map(as_text, classes)])
    for index, name in enumerate(counted.names):
        told = int(counted.told[index])
        unlike = "not told" if found.odd is None or told < FEWEST_PARTICLES else words.get(index, "no")
        lines.writerow(
            [
                as_text(name),
                *(told, int(counted.unsure[index]), int(counted.unreadable[index])),
                *_probability(counted, index),
                as_text(unlike),
                *counted.counts[index].tolist(),
            ]
        )
    write_text(path, out.getvalue())


def _probability(counted: Tally, index: int) -> list[str]:
    """Return mean and interval of the probability; empty cells where there are too few particles for them."""
    values = (counted.probability[index], *counted.probability_interval(index))
    return [f"{value:.4f}" if np.isfinite(value) else "" for value in values]


# ------------------------------------------------------------------------------------------------ the page


def table_of(found: ByTomogram, decisions: Decisions, classes: Sequence[str], boxes: Boxes) -> TomogramTable:
    """Return what the page shows: the table, the outliers, and pictures of the tomograms with most particles."""
    counted = found.counted
    return TomogramTable(
        classes=classes,
        rows=[
            TomogramRow(
                name=name,
                told=int(counted.told[index]),
                counts=counted.counts[index],
                unsure=int(counted.unsure[index]),
                unreadable=int(counted.unreadable[index]),
                probability=_in_words(counted, index),
            )
            for index, name in enumerate(counted.shown)
        ],
        unlike=[f"{outlier}." for outlier in found.odd or ()],
        untold=found.untold,
        pictures=_pictures(counted, decisions, boxes),
    )


def _in_words(counted: Tally, index: int) -> str:
    if not np.isfinite(counted.probability[index]):
        return "–"
    if not np.isfinite(counted.error[index]):
        return f"{counted.probability[index]:.2f}"
    low, high = counted.probability_interval(index)
    return f"{counted.probability[index]:.2f} ({low:.2f} to {high:.2f})"


def _pictures(counted: Tally, decisions: Decisions, boxes: Boxes) -> list[TomogramPicture]:
    """Picture a few tomograms, those with most particles first; none where boxes come from files."""
    crops = crops_of(boxes.source)
    if crops is None:
        return []
    told = dict(zip(counted.names, counted.told.tolist(), strict=True))
    names = dict(zip(counted.names, counted.shown, strict=True))
    filled = [placement for placement in crops.placements if told.get(placement.tomogram.name)]
    most = sorted(filled, key=lambda placement: -told[placement.tomogram.name])[:PICTURES]
    pictures = []
    for placement in most:
        try:
            slab = slab_of(placement, crops.box * crops.angpix, decisions.done)
        except VolumeError:  # the disk may have changed since, and a page does not fail for it
            continue
        pictures.append(_picture(names[slab.name], slab, decisions))
    return pictures


def _picture(name: str, slab: Slab, decisions: Decisions) -> TomogramPicture:
    return TomogramPicture(
        name=name,
        section=shrink(slab.picture, SIDE),
        size=slab.size,
        height=slab.height,
        thickness=slab.thickness,
        places=slab.places,
        classes=decisions.classes[slab.rows],
        radius=slab.radius,
    )
