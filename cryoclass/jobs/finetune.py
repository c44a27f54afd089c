"""From labelled particles to a model folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim_run
from cryoclass.errors import UsageError
from cryoclass.jobs.going_on import before_work, keeping
from cryoclass.jobs.opening import open_source, particles_path, use_cores
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import (
    BoxOrigin,
    Cutting,
    Split,
    Start,
    Training,
    WorkRequest,
    box_to_cut_setting,
    device_setting,
    label_column_setting,
    outdir_setting,
    resume_setting,
    setting,
)

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.labels import Labelled
    from cryoclass.particles import Particles
    from cryoclass.poses import Poses
    from cryoclass.settings import Recipe
    from cryoclass.sources import Boxes, Source
    from cryoclass.tasks import Truth
    from cryoclass.training.finetune import FineTuned
    from cryoclass.training.loop import LabelledBoxes, Run
    from cryoclass.training.splits import Assignment
    from cryoclass.truths import FirstKnown, NamedVolumes


PAGE = "report.html"
CARD = "model.json"  # comes last and says that all is there
WRITES = Writes(
    command="finetune",
    last=CARD,
    files=(
        "model.safetensors",
        "history.csv",
        "times.csv",
        "metrics.json",
        "predictions.star",
        PAGE,
    ),
    kept=("checkpoint*.pt",),
)


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest(WorkRequest):
    """Which labelled particles to learn from, and how."""

    particles: list[str] | None = setting(
        None,
        argument=True,
        unit="particles",
        help="STAR file with labels; or one per class, such as ribosome=a.star junk=b.star.",
    )
    label_column: str | None = label_column_setting()
    outdir: Path = outdir_setting("Finetune")
    device: str = device_setting()
    references: Path | None = setting(
        None,
        unit="dir",
        help="Folder of density maps (MRC) named after the classes: turned by each particle's angles and origins, the truth of "
        "segment and recover where a particle names none.",
    )
    resume: bool = resume_setting()
    box: int | None = box_to_cut_setting()
    start: Start = Start()
    training: Training = Training()
    split: Split = Split()
    boxes: BoxOrigin = BoxOrigin()
    cutting: Cutting = Cutting()
    checkpoint_seconds: float = 30.0  # no option: the cost of saving is limited too


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which labelled particles take which part; told before training starts.

    Attributes
    ----------
    split
        In words, with the reason.
    counts
        Of each class: all of its labelled particles, and those in each part.
    """

    split: str
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a fine-tuning did.

    Attributes
    ----------
    model
        The model folder.
    tuned
        Classifier, card, history and scores.
    table
        The first of the tables that it learnt from.
    page
        The page to look at.
    """

    model: Path
    tuned: "FineTuned"
    table: Path
    page: Path


def finetune(request: FinetuneRequest, listener: Listener = TO_LOG) -> FinetuneResult:
    """Teach a network classes from labelled particles; write a model folder.

    The listener is told the :class:`Plan`, and the record of each epoch, or of each fit of a head alone
    (:mod:`cryoclass.training.history`). A run that was killed goes on when the same request comes again.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    from cryoclass.labels import files_of

    start = request.start
    inputs = [request.boxes.tomograms, start.weights, start.donor and start.donor / CARD]
    inputs += files_of(request.particles or [str(particles_path(None))])
    keep = {"resume": request.resume, "overwrite": request.overwrite}
    with claim_run(request.outdir, WRITES, inputs, **keep) as place:
        return _finetune(request, place, listener)


def _finetune(request: FinetuneRequest, place: Workplace, listener: Listener) -> FinetuneResult:
    import numpy as np

    from cryoclass.checks.classes import check_class_names
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.identity import same_particles
    from cryoclass.labels import read_labelled
    from cryoclass.sources import Boxes
    from cryoclass.training.finetune import choose_recipe, train
    from cryoclass.training.loop import LabelledBoxes
    from cryoclass.training.splits import with_unlabelled

    workers = use_cores(request.num_workers)
    run = _run(request, place, workers, listener)
    for words in request.training.idle:
        listener.warn(f"{words}.")
    recipe = choose_recipe(request.start, request.training)
    if request.references is not None and recipe.tasks == ("classify",):
        listener.warn("--references does nothing without segment or recover in --tasks.")
    arguments = request.particles or [str(particles_path(None))]
    labelled = read_labelled(arguments, request.label_column, needed="classify" in recipe.tasks)
    recipe = _for_few(recipe, labelled, request, listener)
    enforce(check_class_names(labelled.classes), listener)
    boxes = _open(labelled, request, workers, listener)
    same = same_particles(labelled.tables, boxes.source)
    assignment = _share_out(labelled, same, recipe, request, listener)
    _warn_of_domain(boxes, recipe, request.start, listener)
    listener.tell(_plan(labelled, assignment))
    truths, known = _truths(labelled, boxes.source, recipe.tasks, request.references, listener)
    more = with_unlabelled(assignment, known, labelled.tomograms, same)
    if added := int((more.parts != assignment.parts).sum()):
        listener.note(f"{added} particles without a label teach {' and '.join(truths)}")
    examples = LabelledBoxes(
        source=boxes.source,
        labels=labelled.labels,
        parts=more.parts,
        classes=labelled.classes,
        truths=truths,
        groups=(np.unique(labelled.tomograms, return_inverse=True)[1], same),
    )
    # What they are, and not where they lie: a disk may be moved, and a folder be named from elsewhere.
    taught = {str(name): Boxes(source=truth).fingerprint[:12] for name, truth in truths.items()}
    run = replace(run, facts={**request.cutting.to_dict(), "voxels": boxes.fingerprint[:12], **taught})
    tuned = train(examples, boxes.sample.contrast, recipe, request.start, run)
    tuned = _with_origin(tuned, labelled, assignment)
    with place.finishing():
        _write(request.outdir, tuned, labelled, boxes, examples)
    return FinetuneResult(
        model=request.outdir, tuned=tuned, table=labelled.tables[0].path, page=request.outdir / PAGE
    )


def _for_few(
    recipe: "Recipe", labelled: "Labelled", request: FinetuneRequest, listener: Listener
) -> "Recipe":
    """Return the recipe; where a class has too few labels for three parts, and the choice is ours, that of the head alone."""
    from cryoclass.training.finetune import choose_recipe
    from cryoclass.training.splits import too_few_to_share

    ours = request.training.recipe == "auto" and recipe.tasks == ("classify",) and not recipe.freeze
    if not ours or not too_few_to_share(labelled.labels, request.split):
        return recipe
    listener.note(
        "a class has too few labels for training, validation and test: the head alone is fitted (as with --freeze), to all of them"
    )
    return choose_recipe(request.start, request.training.replace(freeze=True))


def _run(request: FinetuneRequest, place: Workplace, workers: int, listener: Listener) -> "Run":
    from cryoclass.machine import choose_device
    from cryoclass.training.loop import Run

    return Run(
        device=choose_device(request.device),
        seed=request.training.seed,
        keeping=keeping(request, listener),
        workers=workers,
        track=listener.track,
        on_record=listener.tell,
        before_work=before_work(request, place, listener),
        max_unreadable=request.max_unreadable,
    )


def _open(labelled: "Labelled", request: FinetuneRequest, workers: int, listener: Listener) -> "Boxes":
    from cryoclass.sources import Boxes, JoinedSource

    sources = [
        open_source(table, request.boxes, request.cutting, request.box, listener) for table in labelled.tables
    ]
    return Boxes(source=JoinedSource(sources) if len(sources) > 1 else sources[0], workers=workers)


def _truths(
    labelled: "Labelled", boxes: "Source", tasks: Sequence[str], references: Path | None, listener: Listener
) -> "tuple[dict[Truth, Source], np.ndarray]":
    """Return what is known of the voxels of the particles, as far as tasks learn from it, and of which rows anything is, (n,).

    Raises
    ------
    UsageError
        A task has nothing to learn from.
    """
    import numpy as np

    from cryoclass.sources import JoinedSource
    from cryoclass.tasks import task_named
    from cryoclass.truths import COLUMNS

    found: dict[Truth, Source] = {}
    anything = np.zeros(len(boxes), dtype=bool)
    for truth in (task_named(name).truth for name in tasks if task_named(name).dense):
        parts = _known_volumes(labelled, boxes, truth, references)
        known = np.concatenate([part.known for part in parts])
        if not known.any():
            raise UsageError(
                f"--tasks is {','.join(tasks)}, but no particle names a {truth} (column {COLUMNS[truth]}).",
                "Add the column, with an MRC volume for each particle, as cryoclass simulate --truth does; or give a density "
                "map of each class with --references; or leave the task out.",
            )
        listener.note(f"{truth}: known of {known.sum()} of {len(boxes)} particles")
        found[truth] = JoinedSource(parts) if len(parts) > 1 else parts[0]
        anything |= known
    return found, anything


def _known_volumes(
    labelled: "Labelled", boxes: "Source", truth: "Truth", references: Path | None
) -> "Sequence[NamedVolumes | FirstKnown]":
    """Return, for each table, what its rows name, else the reference of their class, turned into place."""
    from cryoclass.simulation.maps import read_references
    from cryoclass.sources import JoinedSource
    from cryoclass.truths import FirstKnown, NamedVolumes, PosedVolumes

    parts = boxes.sources if isinstance(boxes, JoinedSource) else [boxes]
    named = [NamedVolumes(table, truth, part) for table, part in zip(labelled.tables, parts, strict=True)]
    if references is None:
        return named
    maps = read_references(references, boxes.angpix, boxes.box)
    return [
        FirstKnown(first, PosedVolumes(maps, classes, _poses(first.particles, part), truth, part))
        for first, classes, part in zip(named, labelled.names_by_table, parts, strict=True)
    ]


def _poses(table: "Particles", source: "Source") -> "Poses":
    from cryoclass.poses import poses_of

    poses = poses_of(table, source)
    if poses is None:
        raise UsageError(
            f"--references needs to know how particles lie, and {table.path} does not say: it has no angles "
            "(rlnAngleRot, rlnAngleTilt, rlnAnglePsi), or those of rotated subtomograms (rlnTomoSubtomogramRot) cut by others.",
            "Give a table that was refined, or cut the boxes on the fly with --tomograms.",
        )
    return poses


def _share_out(
    labelled: "Labelled",
    same: "np.ndarray",
    recipe: "Recipe",
    request: FinetuneRequest,
    listener: Listener,
) -> "Assignment":
    """Decide which rows take which part; those of one particle take the same, and must have the same class."""
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.identity import check_identity
    from cryoclass.training.splits import assign_parts

    labels, classes = labelled.labels, labelled.classes
    enforce(check_identity(labelled.tables, same, labels, classes), listener)
    least = 2 if "classify" in recipe.tasks else 1
    split = request.split.replace(least_classes=least, crossing=recipe.at_once)
    if not split.val_fraction and not recipe.at_once:
        raise UsageError(
            "--val-fraction is 0, but the best epoch of a whole network is chosen by validation particles.",
            "Add --freeze, which fits the head alone, or leave a share for validation.",
        )
    return assign_parts(labels, labelled.tomograms, split, request.training.seed, classes, same)


def _warn_of_domain(boxes: "Boxes", recipe: "Recipe", start: Start, listener: Listener) -> None:
    """Say what the boxes have that the weights at the start have not learnt from, where that is known."""
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_domain
    from cryoclass.training.finetune import facts_of_start

    learnt_from = facts_of_start(start).learnt_from
    if not learnt_from.known:
        return  # and no box need be read
    contrast = boxes.sample.contrast
    enforce(check_domain(boxes.source, contrast, start.backbone, learnt_from, recipe.preparation), listener)


def _plan(labelled: "Labelled", assignment: "Assignment") -> Plan:
    import numpy as np

    from cryoclass.training.splits import PARTS, TAUGHT

    parts = assignment.parts
    counts = {}
    for number, name in enumerate(labelled.classes):
        own = parts[labelled.labels == number]
        counts[name] = {"all": len(own), "train": int(np.isin(own, TAUGHT).sum())} | {
            part: int((own == part).sum()) for part in PARTS[1:]
        }
    return Plan(split=assignment.in_words, counts=counts)


def _with_origin(tuned: "FineTuned", labelled: "Labelled", assignment: "Assignment") -> "FineTuned":
    """Let the card say which tables were learnt from, and what was kept apart."""
    facts = {"particles": [str(table.path) for table in labelled.tables], "split": assignment.mode}
    return replace(tuned, card=tuned.card.replace(training={**facts, **tuned.card.training}))


def _held_out_columns(tuned: "FineTuned") -> dict[str, list[str]]:
    """Return what is said of the particles that the training was scored on: what the model says, and their part."""
    from cryoclass.results import held_out_columns

    return held_out_columns(tuned.history.said, tuned.card.classes, tuned.card.outputs) | {
        "cryoclassSplit": tuned.parts[tuned.history.rows].tolist()
    }


def _write(
    outdir: Path, tuned: "FineTuned", labelled: "Labelled", boxes: "Boxes", examples: "LabelledBoxes"
) -> None:
    """Write everything."""
    from cryoclass.classifier import save_model
    from cryoclass.jobs.pages import write_training_page
    from cryoclass.results import write_held_out, write_history, write_metrics

    write_history(outdir, tuned.history.records)
    write_metrics(outdir / "metrics.json", tuned.written_scores)
    write_held_out(outdir / "predictions.star", labelled, tuned.history.rows, _held_out_columns(tuned))
    write_training_page(outdir / PAGE, tuned, labelled, boxes, examples)
    save_model(outdir, tuned.classifier, tuned.card)
