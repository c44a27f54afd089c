"""From what a job found to what its page shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoclass.card import ModelCard
from cryoclass.labels import Labelled
from cryoclass.metrics import LABELS_MAY_BE_KNOWN
from cryoclass.report.content import Curves, Example, Gallery, PredictContent, Scored, TrainContent
from cryoclass.report.pages import prediction_page, training_page
from cryoclass.report.scores import surest_and_least, worst_mistakes
from cryoclass.results import Decisions
from cryoclass.sources import Boxes, read_many
from cryoclass.training.finetune import FineTuned
from cryoclass.training.splits import PARTS


def write_training_page(path: Path, tuned: FineTuned, labelled: Labelled, boxes: Boxes) -> None:
    """Write ``report.html`` of a fine-tuning."""
    part, history = tuned.scored_part, tuned.history
    rows = history.rows[tuned.parts[history.rows] == part]
    chosen = np.isin(history.rows, rows)
    scored = Scored(
        classes=labelled.classes, probabilities=history.probabilities[chosen], labels=labelled.labels[rows]
    )
    content = TrainContent(
        curves=_curves(tuned),
        measured_on=f"{tuned.measured_on} ({tuned.card.training['split']}s kept apart)",
        remarks=tuned.remarks,
        scored=scored,
        mistakes=_examples(boxes, scored, worst_mistakes(scored), rows, labelled.tomograms),
        counts={name: _count(labelled, tuned.parts == name) for name in PARTS},
        settings=tuned.card.training,
        versions=tuned.card.versions,
    )
    training_page(path, content)


def write_prediction_page(
    path: Path,
    decisions: Decisions,
    reasons: Mapping[int, str],
    labels: np.ndarray,
    boxes: Boxes,
    card: ModelCard,
) -> None:
    """Write ``report.html`` of a prediction; ``reasons`` say why rows are unreadable, ``labels`` (n,) are -1 where unknown."""
    rows = decisions.done
    scored = Scored(classes=card.classes, probabilities=decisions.probabilities[rows], labels=labels[rows])
    picks = surest_and_least(scored.probabilities, decisions.classes[rows])
    galleries = [
        Gallery(
            name=name,
            most=_examples(boxes, scored, most, rows),
            least=_examples(boxes, scored, least, rows),
        )
        for name, (most, least) in zip(card.classes, picks, strict=True)
    ]
    content = PredictContent(
        scored=scored,
        assigned=decisions.classes[rows],
        galleries=galleries,
        remarks=(LABELS_MAY_BE_KNOWN,),
        skipped=Counter(reasons.values()),
        settings={"model": card.backbone, "pixel size (A)": card.angpix, "box (pixels)": card.box[0]},
        versions=card.versions,
    )
    prediction_page(path, content)


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
        val_loss=np.array([r.val_loss for r in records]),
        val_auc=np.array([np.nan if r.val_auc is None else r.val_auc for r in records]),
        val_accuracy=np.array([r.val_accuracy for r in records]),
        best=best.at,
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
