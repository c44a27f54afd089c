"""``cryoclass finetune``: from labelled particles to a model folder."""

from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.finetune import FinetuneRequest, FinetuneResult, Plan

if TYPE_CHECKING:
    from cryoclass.training.loop import EpochRecord


@with_request
def finetune(request: FinetuneRequest) -> None:
    """Teach a network your classes from labelled particles.

    Shares the labelled particles out between training, validation and test, keeps the epoch with the best validation
    AUC, and reports scores on particles that it never saw. Writes a model folder.

    Example: cryoclass finetune particles.star --backbone r3d34-k400
    """
    _say_result(jobs.finetune(request, console.Heard(_say_progress)))


def _say_progress(event: "Plan | EpochRecord") -> None:
    if isinstance(event, Plan):
        _say_plan(event)
    else:
        _say_epoch(event)


def _say_plan(plan: Plan) -> None:
    console.note(f"split: {plan.split}")
    lines = [[name, *counts.values()] for name, counts in plan.counts.items()]
    console.columns("labelled particles", ["class", "all", "train", "val", "test"], lines)


def _say_epoch(record: "EpochRecord") -> None:
    auc = f"{record.val_auc:.4f}" if record.val_auc is not None else "  -   "
    console.note(
        f"epoch {record.epoch:3d}  loss {record.train_loss:.4f}  val loss {record.val_loss:.4f}  "
        f"val AUC {auc}  val accuracy {record.val_accuracy:.4f}  {record.seconds:.1f} s{'  best' if record.best else ''}"
    )


def _say_result(result: FinetuneResult) -> None:
    tuned, model = result.tuned, result.model
    part, history = tuned.scored_part, tuned.history
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
            ("best epoch", f"{history.best_epoch} of {history.epochs[-1].epoch}"),
            ("left out", f"{len(history.skipped)} unreadable" if history.skipped else "none"),
            ("model", model),
            ("look at", result.page),
        ],
    )
    console.columns(
        f"by class ({part})",
        ["class", "particles", "precision", "recall"],
        [[c.name, c.support, f"{c.precision:.3f}", f"{c.recall:.3f}"] for c in scores.classes],
    )
    console.next_command(
        f"cryoclass predict {result.table} --model {model}", f"cryoclass export {model} -o model.onnx"
    )
