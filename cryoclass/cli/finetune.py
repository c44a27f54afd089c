"""``cryoclass finetune``: from labelled particles to a model folder."""

from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import all_tasks, same_boxes
from cryoclass.cli.options import with_request
from cryoclass.jobs.finetune import FinetuneRequest, FinetuneResult, Plan

if TYPE_CHECKING:
    from cryoclass.training.history import History, Record


@with_request
def finetune(request: FinetuneRequest) -> None:
    """Teach a network your classes from labelled particles.

    Shares the labelled particles out between training, validation and test, keeps the epoch with the best validation
    AUC (of several --tasks, the best mean of AUC, IoU and correlation), and reports scores on particles that it never saw. Writes a
    model folder.

    Example: cryoclass finetune particles.star --backbone r3d34-k400
    """
    result = jobs.finetune(request, console.Heard(_say_progress))
    _say_result(result)
    console.next_command(
        (
            "cryoclass",
            "predict",
            result.table,
            "--model",
            result.model,
            *all_tasks(result.tuned.card.tasks),
            *same_boxes(request.boxes, request.cutting),
        ),
        ("cryoclass", "export", result.model, "-o", "model.onnx"),
    )


def _say_progress(event: "Plan | Record") -> None:
    if isinstance(event, Plan):
        _say_plan(event)
    else:
        _say_record(event)


def _say_plan(plan: Plan) -> None:
    console.note(f"split: {plan.split}")
    lines = [[name, *counts.values()] for name, counts in plan.counts.items()]
    console.columns("labelled particles", ["class", "all", "train", "val", "test"], lines)


def _say_record(record: "Record") -> None:
    width = 3 if record.kind == "epoch" else 5
    parts = [
        f"{record.kind} {record.at:{width}g}",
        f"loss {record.train_loss:.4f}",
        *([f"val loss {record.val_loss:.4f}"] if record.val_loss is not None else []),
        *_scores_of(record),
        f"{record.seconds:.1f} s{'  best' if record.best else ''}",
    ]
    console.note("  ".join(parts))


def _scores_of(record: "Record") -> list[str]:
    scores = []
    if record.val_accuracy is not None:
        auc = f"{record.val_auc:.4f}" if record.val_auc is not None else "  -   "
        scores = [f"val AUC {auc}", f"val accuracy {record.val_accuracy:.4f}"]
    shown = {"val_iou": "val IoU", "val_correlation": "val correlation"}
    return scores + [f"{shown[name]} {value:.4f}" for name, value in record.figures.items() if name in shown]


def _say_result(result: FinetuneResult) -> None:
    from cryoclass.training.splits import CROSSED

    tuned, history = result.tuned, result.tuned.history
    scores = tuned.scores
    console.rows(
        "fine-tuned",
        [
            ("scored on", f"{tuned.scored_count} {tuned.measured_on}"),
            *(scores.in_words.items() if scores else ()),
            *tuned.voxels_in_words.items(),
            (f"best {history.best.kind}", _best_of(history)),
            ("left out", f"{len(history.skipped)} unreadable" if history.skipped else "none"),
            ("model", result.model),
            ("look at", result.page),
        ],
    )
    if scores:
        console.columns(
            f"by class ({'cross-validation' if tuned.scored_part == CROSSED else tuned.scored_part})",
            ["class", "particles", "precision", "recall"],
            [[c.name, c.support, c.in_words["precision"], c.in_words["recall"]] for c in scores.classes],
        )
    for caveat in (*(scores.caveats if scores else ()), *tuned.remarks):
        console.warn(caveat)


def _best_of(history: "History") -> str:
    first, last = history.records[0].at, history.records[-1].at
    if history.best.kind == "epoch":
        return f"{history.best.at:g} of {last:g}"
    return f"{history.best.at:g}, of {first:g} to {last:g}: C of the logistic regression that is the head"
