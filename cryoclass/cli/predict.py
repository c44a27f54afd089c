"""``cryoclass predict``: classes and probabilities for every particle, in the user's own STAR file."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.options import (
    BatchSize,
    Device,
    Jobs,
    LabelColumn,
    ModelFolder,
    OnnxFile,
    Outdir,
    Overwrite,
    ParticlesArgument,
    PrecisionOption,
    Rescale,
    claim,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.errors import UsageError
from cryoclass.settings import BoxOrigin, Cutting

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.classifier import ModelCard
    from cryoclass.inference.pipeline import Predictions
    from cryoclass.metrics import Metrics
    from cryoclass.particles import Particles
    from cryoclass.results import Skipped


@with_settings
def predict(
    particles: ParticlesArgument = None,
    model: ModelFolder = None,
    onnx: OnnxFile = None,
    outdir: Outdir = Path("Predict"),
    min_probability: Annotated[
        float,
        typer.Option("--min-probability", min=0, max=1, help="Particles below it get no class (number 0)."),
    ] = 0.0,
    split_classes: Annotated[
        bool, typer.Option("--split-classes", help="Also write one STAR file per class.")
    ] = False,
    label_column: LabelColumn = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSize = 32,
    jobs: Jobs = cores(),
    rescale: Rescale = False,
    overwrite: Overwrite = False,
    *,
    boxes: BoxOrigin,
    cutting: Cutting,
) -> None:
    """Classify particles with a model folder or an exported ONNX file.

    Writes your STAR file back with nothing lost and these columns added: rlnClassNumber (from 1), the probability in
    rlnMaxValueProbDistribution, and the class names and all probabilities in cryoclass* columns.

    Example: cryoclass predict particles.star --onnx model.onnx --split-classes
    """
    claim(outdir, "particles.star", overwrite=overwrite)
    if (model is None) == (onnx is None):
        raise UsageError(
            "give one of --model and --onnx.",
            "--model Finetune/ is what finetune wrote, --onnx what export wrote.",
        )
    path = particles_path(particles)
    from cryoclass.cli.engines import open_engine
    from cryoclass.cli.pages import write_prediction_page
    from cryoclass.cli.sources import open_model_source
    from cryoclass.inference.pipeline import Flow
    from cryoclass.inference.pipeline import predict as predict_all
    from cryoclass.particles import read_particles
    from cryoclass.results import (
        decide,
        prediction_columns,
        remove_earlier,
        write_classes,
        write_metrics,
        write_optimisation_sets,
        write_skipped,
        write_split,
    )

    engine = open_engine(model, onnx, device, precision)
    card = engine.card
    table = read_particles(path)
    labels = _known_labels(table, label_column, card)
    source = open_model_source(table, boxes, cutting, card, rescale=rescale)
    predictions = predict_all(engine, source, Flow(batch_size=batch_size, jobs=jobs, track=console.track))
    assigned = decide(predictions.probabilities, min_probability)
    columns = prediction_columns(predictions.probabilities, assigned, card.classes, predictions.unreadable)
    result = table.with_columns(columns)
    skipped = _left_out(predictions, table)
    remove_earlier(outdir)
    write_skipped(outdir / "skipped.csv", table, skipped)
    write_classes(outdir / "classes.star", assigned, card.classes)
    parts = write_split(outdir, result, assigned, card.classes) if split_classes else []
    sets = write_optimisation_sets(table, boxes.tomograms, [outdir / "particles.star", *parts])
    scores = _score(predictions.probabilities[predictions.readable], labels[predictions.readable], card)
    if scores is not None:
        write_metrics(outdir / "metrics.json", {"labelled": scores})
    write_prediction_page(outdir / "report.html", predictions, assigned, labels, source, card)
    result.star.write(outdir / "particles.star")
    _say_result(outdir, card, assigned, len(skipped), [*parts, *sets])
    if scores is not None:
        _say_scores(scores)
    console.next_command(
        f"relion_star_handler --i {outdir / 'particles.star'} --o class1.star --select rlnClassNumber --minval 1 --maxval 1"
    )


def _left_out(predictions: "Predictions", table: "Particles") -> list["Skipped"]:
    """Return the particles whose boxes could not be read, with the reasons."""
    from cryoclass.results import Skipped

    return [
        Skipped(row=row, tomogram=table.tomograms[row], reason=reason)
        for row, reason in predictions.unreadable.items()
    ]


def _known_labels(table: "Particles", label_column: str | None, card: "ModelCard") -> "np.ndarray":
    """Return the number of each particle's label among the model's classes (n,); -1 where there is none.

    A class number of the file is taken for a label only where the user names that column: it is what most files
    have from an earlier classification.
    """
    import numpy as np

    if label_column is None and "cryoclassLabel" not in table.block.labels:
        return np.full(len(table), -1)
    numbers = {name: number for number, name in enumerate(card.classes)}
    texts = table.labels(table.label_column(label_column))
    strange = Counter(text for text in texts if text is not None and text not in numbers)
    if strange:
        shown = ", ".join(name for name, _ in strange.most_common(3))
        console.warn(f"{strange.total()} labels are not classes of the model ({shown}); they are not scored.")
    return np.array([-1 if text is None else numbers.get(text, -1) for text in texts])


def _say_result(
    outdir: Path, card: "ModelCard", assigned: "np.ndarray", unreadable: int, parts: list[Path]
) -> None:
    counts = [(name, int((assigned == number).sum())) for number, name in enumerate(card.classes)]
    total = len(assigned)
    console.columns(
        "predicted",
        ["class", "number", "particles", "share"],
        [
            [name, number, count, f"{100 * count / total:.1f} %"]
            for number, (name, count) in enumerate(counts, 1)
        ],
    )
    unsure = int((assigned < 0).sum()) - unreadable
    console.rows(
        "written",
        [
            ("no class", f"{unsure} below --min-probability, {unreadable} unreadable"),
            ("table", outdir / "particles.star"),
            *(("also", part) for part in parts),
            ("look at", outdir / "report.html"),
        ],
    )


def _score(probabilities: "np.ndarray", labels: "np.ndarray", card: "ModelCard") -> "Metrics | None":
    known = labels >= 0
    if not known.any():
        return None
    from cryoclass.metrics import evaluate

    return evaluate(probabilities[known], labels[known], card.classes)


def _say_scores(scores: "Metrics") -> None:
    console.rows(
        "against the labels in the file (the model may have learnt from some of them)",
        [
            ("labelled", scores.count),
            ("accuracy", f"{scores.accuracy:.4f}"),
            ("balanced accuracy", f"{scores.balanced_accuracy:.4f}"),
            ("macro AUC", "-" if scores.auc is None else f"{scores.auc:.4f}"),
        ],
    )
