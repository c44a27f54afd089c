"""From what a command did to what its page shows."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cryoclass.backbones.registry import spec
from cryoclass.classifier import ModelCard
from cryoclass.errors import VolumeError
from cryoclass.inference.pipeline import Predictions
from cryoclass.labels import Labelled
from cryoclass.particles import Particles
from cryoclass.report.content import (
    Curves,
    EmbedContent,
    Example,
    Gallery,
    Grouping,
    PredictContent,
    Scored,
    TrainContent,
)
from cryoclass.report.maps import clusters, project
from cryoclass.report.pages import prediction_page, training_page
from cryoclass.report.scores import surest_and_least, worst_mistakes
from cryoclass.settings import Mapping2d
from cryoclass.sources import Source
from cryoclass.training.finetune import FineTuned


def write_training_page(path: Path, tuned: FineTuned, labelled: Labelled, source: Source) -> None:
    """Write ``report.html`` of a fine-tuning."""
    part, history = tuned.scored_part, tuned.history
    rows = history.rows[tuned.assignment.parts[history.rows] == part]
    chosen = np.isin(history.rows, rows)
    scored = Scored(
        classes=labelled.classes, probabilities=history.probabilities[chosen], labels=labelled.labels[rows]
    )
    scores = tuned.metrics[part]
    names = labelled.tomograms
    counts = {
        name: [
            int(((labelled.labels == number) & (tuned.assignment.parts == name)).sum())
            for number in range(len(labelled.classes))
        ]
        for name in ("train", "val", "test")
    }
    content = TrainContent(
        curves=_curves(tuned),
        headline={
            "accuracy": scores.accuracy,
            "balanced accuracy": scores.balanced_accuracy,
            "macro AUC": float("nan") if scores.auc is None else scores.auc,
            "calibration error": scores.calibration_error,
        },
        measured_on=f"{part} particles ({tuned.assignment.mode}s kept apart)",
        scored=scored,
        mistakes=_examples(source, scored, worst_mistakes(scored), rows, names),
        counts=counts,
        settings=tuned.card.training,
        versions=tuned.card.versions,
    )
    training_page(path, content)


def write_prediction_page(
    path: Path,
    predictions: Predictions,
    assigned: np.ndarray,
    labels: np.ndarray,
    source: Source,
    card: ModelCard,
) -> None:
    """Write ``report.html`` of a prediction; ``labels`` (n,) are -1 where unknown."""
    rows = predictions.readable
    scored = Scored(classes=card.classes, probabilities=predictions.probabilities[rows], labels=labels[rows])
    picks = surest_and_least(scored.probabilities, assigned[rows])
    galleries = [
        Gallery(
            name=name,
            most=_examples(source, scored, most, rows),
            least=_examples(source, scored, least, rows),
        )
        for name, (most, least) in zip(card.classes, picks, strict=True)
    ]
    content = PredictContent(
        scored=scored,
        assigned=assigned[rows],
        galleries=galleries,
        skipped=Counter(predictions.unreadable.values()),
        settings={"model": card.backbone, "pixel size (A)": card.angpix, "box (pixels)": card.box[0]},
        versions=card.versions,
    )
    prediction_page(path, content)


def lay_out(
    table: Particles,
    embedding: np.ndarray,
    predictions: Predictions,
    card: ModelCard,
    labelled: Labelled | None,
    layout: Mapping2d,
) -> tuple[EmbedContent, dict[str, list[str]]]:
    """Lay the embedding (readable particles, E) out on a plane; return what the page shows, and the table's columns."""
    rows, classes = predictions.readable, card.classes
    points = project(embedding, layout.method, layout.seed)
    place = np.zeros((len(table), 2))
    place[rows] = points
    columns = {f"cryoclassMap{axis}": [f"{v:.6f}" for v in place[:, i]] for i, axis in enumerate("XY")}
    groupings = []
    if labelled is not None:
        groupings.append(Grouping(title="label", names=labelled.classes, index=labelled.labels[rows]))
    if classes:
        best = predictions.probabilities[rows].argmax(axis=1)
        groupings.append(Grouping(title="predicted class", names=classes, index=best))
    if layout.clusters is not None or not groupings:
        found = clusters(
            embedding, layout.clusters or 1, layout.seed, standardise=not spec(card.backbone).natural_units
        )
        names = [str(number + 1) for number in range(int(found.max()) + 1)]
        groupings.append(Grouping(title="cluster", names=names, index=found))
        numbers = np.zeros(len(table), dtype=int)
        numbers[rows] = found + 1
        columns["cryoclassCluster"] = [str(number) for number in numbers.tolist()]
    content = EmbedContent(
        points=points,
        rows=rows + 1,
        tomograms=[table.tomograms[row] for row in rows.tolist()],
        groupings=groupings,
        probability=predictions.probabilities[rows].max(axis=1) if classes else None,
        method=layout.method,
        settings={"map": layout.method, "clusters": layout.clusters or "-", "seed": layout.seed},
    )
    return content, columns


def _curves(tuned: FineTuned) -> Curves:
    epochs = tuned.history.epochs
    return Curves(
        epochs=np.array([e.epoch for e in epochs]),
        train_loss=np.array([e.train_loss for e in epochs]),
        val_loss=np.array([e.val_loss for e in epochs]),
        val_auc=np.array([np.nan if e.val_auc is None else e.val_auc for e in epochs]),
        val_accuracy=np.array([e.val_accuracy for e in epochs]),
        best_epoch=tuned.history.best_epoch,
    )


def _examples(
    source: Source, scored: Scored, picks: Iterable[int], rows: np.ndarray, tomograms: list[str] | None = None
) -> list[Example]:
    """Read the boxes of a few particles; ``picks`` index ``scored``, ``rows`` lead from there to the table."""
    examples = []
    for pick in map(int, picks):
        row = int(rows[pick])
        try:
            box = source.read(row)
        except VolumeError:  # the disk may have changed since; a page does not fail for it
            continue
        best, label = int(scored.probabilities[pick].argmax()), int(scored.labels[pick])
        examples.append(
            Example(
                box=box,
                row=row + 1,
                tomogram=tomograms[row] if tomograms else "",
                true=scored.classes[label] if label >= 0 else "",
                predicted=scored.classes[best],
                probability=float(scored.probabilities[pick, best]),
            )
        )
    return examples
