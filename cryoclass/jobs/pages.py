"""From what a job found to what its page shows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoclass.card import ModelCard
from cryoclass.classifier import WholeModel
from cryoclass.inference.engines import TorchEngine
from cryoclass.jobs.by_tomogram import ByTomogram, table_of
from cryoclass.labels import Labelled
from cryoclass.metrics import LABELS_MAY_BE_KNOWN
from cryoclass.outputs import Outputs
from cryoclass.report.content import (
    Classified,
    Curves,
    Example,
    Gallery,
    PredictContent,
    Scored,
    TomogramTable,
    TrainContent,
    VoxelSheet,
)
from cryoclass.report.pages import prediction_page, training_page
from cryoclass.report.scores import surest_and_least, worst_mistakes
from cryoclass.results import Told
from cryoclass.sources import Boxes, Reason, read_many
from cryoclass.training.finetune import FineTuned
from cryoclass.training.loop import LabelledBoxes
from cryoclass.training.splits import PARTS, TAUGHT
from cryoclass.volumes.mrc import open_volume

SHEETS = 6  # particles shown with what is said of their voxels


def write_training_page(
    path: Path, tuned: FineTuned, labelled: Labelled, boxes: Boxes, examples: LabelledBoxes
) -> None:
    """Write ``report.html`` of a fine-tuning from ``examples``, which are in ``labelled``."""
    part, history = tuned.scored_part, tuned.history
    rows = history.rows[tuned.parts[history.rows] == part]
    chosen = np.isin(history.rows, rows)
    scored = None
    if "probabilities" in history.said:
        scored = Scored(
            classes=labelled.classes,
            probabilities=history.probabilities[chosen],
            labels=labelled.labels[rows],
        )
    mistakes = _examples(boxes, scored, worst_mistakes(scored), rows, labelled.tomograms) if scored else []
    voxels = tuned.voxels.get(part, {})
    content = TrainContent(
        curves=_curves(tuned),
        measured_on=tuned.measured_on + _kept_apart(tuned.card.training["split"]),
        remarks=tuned.remarks,
        scored=scored,
        mistakes=mistakes,
        classes=labelled.classes,
        voxel_scores=tuned.voxels_in_words,
        sheets=_voxel_sheets(tuned, rows, examples, labelled.tomograms) if voxels else (),
        counts=_counts(labelled, tuned.parts),
        settings=tuned.card.training,
        versions=tuned.card.versions,
    )
    training_page(path, content)


def _kept_apart(mode: str) -> str:
    return "" if mode == "nothing" else f" ({mode}s kept apart)"


def _counts(labelled: Labelled, parts: np.ndarray) -> dict[str, list[int]]:
    """Return the particles of each class in each part."""
    chosen = {PARTS[0]: np.isin(parts, TAUGHT)} | {name: parts == name for name in PARTS[1:]}
    return {name: _count(labelled, rows) for name, rows in chosen.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What a prediction says; ``labels`` (n,) are -1 where unknown, ``tomograms`` None where nothing is told by tomogram."""

    told: Told
    outputs: Outputs
    labels: np.ndarray
    card: ModelCard
    tomograms: ByTomogram | None


def write_prediction_page(path: Path, predicted: Predicted, boxes: Boxes) -> None:
    """Write ``report.html`` of a prediction."""
    told, outputs, card = predicted.told, predicted.outputs, predicted.card
    rows = outputs.done
    content = PredictContent(
        count=len(rows),
        classified=None if told.decisions is None else _classified(told, predicted.labels, boxes),
        tomograms=_tomograms(predicted, boxes),
        averages=_average_sheets(told),
        sheets=_written_sheets(outputs, rows, boxes),
        skipped=Counter(outputs.reasons.values()),
        settings={
            "model": card.backbone,
            "tasks": ", ".join(card.tasks),
            "pixel size (A)": round(boxes.source.angpix, 4),
            "box (pixels)": boxes.source.box,
        },
        versions=card.versions,
    )
    prediction_page(path, content)


def _tomograms(predicted: Predicted, boxes: Boxes) -> TomogramTable | None:
    found, told = predicted.tomograms, predicted.told
    return None if found is None else table_of(found, told.decided, told.classes, boxes)


def _classified(told: Told, labels: np.ndarray, boxes: Boxes) -> Classified:
    decisions = told.decided
    rows = decisions.done
    scored = Scored(classes=told.classes, probabilities=decisions.probabilities[rows], labels=labels[rows])
    picks = surest_and_least(scored.probabilities, decisions.classes[rows])
    galleries = [
        Gallery(
            name=name,
            most=_examples(boxes, scored, most, rows),
            least=_examples(boxes, scored, least, rows),
        )
        for name, (most, least) in zip(told.classes, picks, strict=True)
    ]
    return Classified(
        scored=scored,
        assigned=decisions.classes[rows],
        galleries=galleries,
        remarks=(LABELS_MAY_BE_KNOWN,),
    )


def _average_sheets(told: Told) -> list[VoxelSheet]:
    """Show the averages of each class that has particles."""
    return [
        VoxelSheet(
            title=f"{told.classes[average.number]}: {average.count:,} particles",
            volumes={name.replace("_", ", "): volume for name, volume in average.volumes.items()},
        )
        for average in told.averages
    ]


def _written_sheets(outputs: Outputs, rows: np.ndarray, boxes: Boxes) -> list[VoxelSheet]:
    """Show a few particles, spread over the table: the box, and the volumes that were written."""
    paths = outputs.volumes.paths
    if not paths or not len(rows):
        return []
    read = read_many(boxes.source, _a_few(rows), boxes.workers)
    return [
        VoxelSheet(
            title=f"Particle {row + 1}",
            volumes={"subtomogram": box} | {name: open_volume(paths[name][row]).voxels for name in paths},
        )
        for row, box in read
        if isinstance(box, np.ndarray)
    ]


def _a_few(rows: np.ndarray) -> list[int]:
    """Return a few rows, spread evenly."""
    chosen: list[int] = rows[np.unique(np.linspace(0, len(rows) - 1, SHEETS).astype(int))].tolist()
    return chosen


def _voxel_sheets(
    tuned: FineTuned, rows: np.ndarray, examples: LabelledBoxes, tomograms: Sequence[str]
) -> list[VoxelSheet]:
    """Show a few particles, spread over those that were scored: the box, what is known, and what the network says."""
    read = read_many(examples.taught, _a_few(rows))
    engine = TorchEngine(WholeModel(tuned.classifier, tuned.card), torch.device("cpu"))
    sheets = []
    for row, volumes in read:
        if isinstance(volumes, Reason):
            continue
        box, *truths = volumes
        said = engine.run(box[None])
        shown = {"subtomogram": box}
        for name, truth in zip(examples.truths, truths, strict=True):
            shown |= {f"true {name}": truth, f"{name}, as recognised": said[name][0]}
        sheets.append(VoxelSheet(title=f"Particle {row + 1}, {tomograms[row]}", volumes=shown))
    return sheets


def _count(labelled: Labelled, chosen: np.ndarray) -> list[int]:
    """Count the particles of each class among some rows."""
    labels = labelled.labels[chosen]
    return [int((labels == number).sum()) for number in range(len(labelled.classes))]


def _curves(tuned: FineTuned) -> Curves:
    records, best = tuned.history.records, tuned.history.best
    return Curves(
        kind=best.kind,
        at=np.array([r.at for r in records]),
        train_loss=np.array([r.train_loss for r in records]),
        val_loss=np.array([np.nan if r.val_loss is None else r.val_loss for r in records]),
        val_auc=np.array([np.nan if r.val_auc is None else r.val_auc for r in records]),
        val_accuracy=np.array([np.nan if r.val_accuracy is None else r.val_accuracy for r in records]),
        best=best.at,
        loss="sum over the tasks" if tuned.voxels else "cross-entropy (nats)",
    )


def _examples(
    boxes: Boxes, scored: Scored, picks: np.ndarray, rows: np.ndarray, tomograms: Sequence[str] = ()
) -> list[Example]:
    """Read the boxes of a few particles; ``picks`` index ``scored``, ``rows`` lead from there to the table.

    One that cannot be read is passed over: the disk may have changed since, and a page does not fail for it.
    """
    read = read_many(boxes.source, rows[picks].tolist(), boxes.workers)
    return [
        _example(row, box, scored, pick, tomograms)
        for (row, box), pick in zip(read, picks.tolist(), strict=True)
        if isinstance(box, np.ndarray)
    ]


def _example(row: int, box: np.ndarray, scored: Scored, pick: int, tomograms: Sequence[str]) -> Example:
    best, label = int(scored.probabilities[pick].argmax()), int(scored.labels[pick])
    return Example(
        box=box,
        row=row + 1,
        tomogram=tomograms[row] if tomograms else "",
        true=scored.classes[label] if label >= 0 else "",
        predicted=scored.classes[best],
        probability=float(scored.probabilities[pick, best]),
    )
