"""``cryoclass finetune``: from labelled particles to a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.options import (
    BoxToCut,
    Device,
    LabelColumn,
    Outdir,
    Overwrite,
    Resume,
    Threads,
    claim_run,
    particles_path,
    with_settings,
)
from cryoclass.settings import BoxOrigin, Cutting, Split, Start, Training

if TYPE_CHECKING:
    from cryoclass.labels import Labelled
    from cryoclass.sources import Source
    from cryoclass.training.finetune import FineTuned
    from cryoclass.training.loop import EpochRecord


@with_settings
def finetune(
    particles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PARTICLES",
            help="STAR file with labels; or one per class, such as ribosome=a.star junk=b.star.",
            show_default=False,
        ),
    ] = None,
    label_column: LabelColumn = None,
    outdir: Outdir = Path("Finetune"),
    device: Device = "auto",
    jobs: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    box: BoxToCut = None,
    *,
    start: Start,
    training: Training,
    split: Split,
    boxes: BoxOrigin,
    cutting: Cutting,
) -> None:
    """Teach a network your classes from labelled particles.

    Shares the labelled particles out between training, validation and test, keeps the epoch with the best validation
    AUC, and reports scores on particles that it never saw. Writes a model folder.

    Example: cryoclass finetune particles.star --backbone r3d34-k400
    """
    claim_run(outdir, "model.json", resume=resume, overwrite=overwrite)
    import torch

    from cryoclass.backbones.registry import spec
    from cryoclass.cli.sources import open_source
    from cryoclass.devices import choose_device
    from cryoclass.inference.compatibility import outside_domain
    from cryoclass.labels import read_labelled
    from cryoclass.sources import JoinedSource
    from cryoclass.training.finetune import choose_recipe
    from cryoclass.training.finetune import finetune as train
    from cryoclass.training.loop import Run
    from cryoclass.training.splits import assign_parts

    if jobs is not None:
        torch.set_num_threads(jobs)
    place = choose_device(device)
    recipe = choose_recipe(start, training)
    labelled = read_labelled(particles or [str(particles_path(None))], label_column)
    assignment = assign_parts(labelled.labels, labelled.tomograms, split, training.seed, labelled.classes)
    sources = [open_source(table, boxes, cutting, box) for table in labelled.tables]
    source = JoinedSource(sources) if len(sources) > 1 else sources[0]
    if start.init == "auto" and start.weights is None:
        for words in outside_domain(source, spec(start.backbone), recipe.preparation):
            console.warn(words)
    _say_plan(
        labelled, assignment.parts.tolist(), f"{assignment.mode}s kept apart, because {assignment.reason}"
    )
    run = Run(
        device=place,
        seed=training.seed,
        freeze=training.freeze,
        folder=outdir,
        resume=resume,
        facts={
            "files": [str(table.path) for table in labelled.tables],
            **boxes.to_dict(),
            **cutting.to_dict(),
        },
        track=console.track,
        on_epoch=_say_epoch,
    )
    tuned = train(labelled, source, assignment, recipe, start, run)
    _write_all(outdir, tuned, labelled, source)
    _say_result(outdir, tuned, labelled.tables[0].path)


def _say_plan(labelled: "Labelled", parts: list[str], split_words: str) -> None:
    console.note(f"split: {split_words}")
    lines = []
    for number, name in enumerate(labelled.classes):
        own = [part for part, label in zip(parts, labelled.labels.tolist(), strict=True) if label == number]
        lines.append([name, len(own), *(own.count(part) for part in ("train", "val", "test"))])
    console.columns("labelled particles", ["class", "all", "train", "val", "test"], lines)


def _say_epoch(record: "EpochRecord") -> None:
    auc = f"{record.val_auc:.4f}" if record.val_auc is not None else "  -   "
    console.note(
        f"epoch {record.epoch:3d}  loss {record.train_loss:.4f}  val loss {record.val_loss:.4f}  "
        f"val AUC {auc}  val accuracy {record.val_accuracy:.4f}  {record.seconds:.1f} s{'  best' if record.best else ''}"
    )


def _write_all(outdir: Path, tuned: "FineTuned", labelled: "Labelled", source: "Source") -> None:
    """Write everything; the model folder's card comes last and says that the run is finished."""
    from cryoclass.classifier import save_model
    from cryoclass.cli.pages import write_training_page
    from cryoclass.results import write_metrics
    from cryoclass.training.outputs import write_history, write_predictions

    write_history(outdir / "history.csv", tuned.history.epochs)
    write_metrics(outdir / "metrics.json", tuned.metrics)
    write_predictions(outdir / "predictions.star", tuned, labelled)
    write_training_page(outdir / "report.html", tuned, labelled, source)
    save_model(outdir, tuned.classifier, tuned.card)


def _say_result(outdir: Path, tuned: "FineTuned", table: Path) -> None:
    part = tuned.scored_part
    scores = tuned.metrics[part]
    seen = "never seen" if part == "test" else "which chose the epoch: held-out particles would score lower"
    console.rows(
        "fine-tuned",
        [
            ("scored on", f"{scores.count} {part} particles, {seen}"),
            ("accuracy", f"{scores.accuracy:.4f}"),
            ("balanced accuracy", f"{scores.balanced_accuracy:.4f}"),
            ("macro AUC", "-" if scores.auc is None else f"{scores.auc:.4f}"),
            ("calibration error", f"{scores.calibration_error:.4f}"),
            ("best epoch", f"{tuned.history.best_epoch} of {tuned.history.epochs[-1].epoch}"),
            ("left out", f"{len(tuned.history.skipped)} unreadable" if tuned.history.skipped else "none"),
            ("model", outdir),
            ("look at", outdir / "report.html"),
        ],
    )
    console.columns(
        f"by class ({part})",
        ["class", "particles", "precision", "recall"],
        [[c.name, c.support, f"{c.precision:.3f}", f"{c.recall:.3f}"] for c in scores.classes],
    )
    console.next_command(
        f"cryoclass predict {table} --model {outdir}", f"cryoclass export {outdir} -o model.onnx"
    )
