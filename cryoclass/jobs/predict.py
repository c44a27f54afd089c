"""Classes and probabilities for every particle, in the user's own STAR file."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim
from cryoclass.errors import ParticleError, UsageError
from cryoclass.jobs.opening import (
    Fitting,
    check_space,
    compute_outputs,
    facts_of,
    open_engine,
    open_model_source,
    particles_path,
    use_cores,
)
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import (
    BoxOrigin,
    Cutting,
    ModelChoice,
    Precision,
    WorkRequest,
    box_to_cut_setting,
    device_setting,
    label_column_setting,
    outdir_setting,
    particles_setting,
    setting,
)

if TYPE_CHECKING:
    import numpy as np

    from cryoclass.averages import ClassAverage
    from cryoclass.card import ModelCard
    from cryoclass.inference.engines import Engine
    from cryoclass.jobs.by_tomogram import ByTomogram
    from cryoclass.metrics import Metrics
    from cryoclass.outputs import Origin, Outputs, VolumeFiles
    from cryoclass.particles import Particles
    from cryoclass.poses import Poses
    from cryoclass.results import Decisions, Told
    from cryoclass.sources import Boxes, Source


VOLUME_FOLDERS = {"mask": "Masks", "density": "Densities", "explanation": "Explanations"}
AVERAGES = "Averages"
TABLE = "particles.star"  # comes last and says that all is there
WRITES = Writes(
    command="predict",
    last=TABLE,
    files=(
        "report.html",
        "classes.star",
        "thresholds.csv",
        "skipped.csv",
        "metrics.json",
        "tomograms.csv",
        "optimisation_set.star",
        "particles_incomplete.star",
        "particles_incomplete_optimisation_set.star",
    ),
    folders=("outputs", *VOLUME_FOLDERS.values(), AVERAGES),
)
SPLIT = ("class[0-9][0-9][0-9]_*.star",)


@dataclass(frozen=True, kw_only=True)
class PredictRequest(WorkRequest):
    """Which particles to classify, with which model, and what to write of it."""

    particles: Path | None = particles_setting()
    choice: ModelChoice = ModelChoice()
    outdir: Path = outdir_setting("Predict")
    tasks: str | None = setting(
        None,
        help="What to tell: classify, segment (a mask for each particle, in Masks/) and recover (its density without "
        "noise and missing wedge, in Densities/), with commas between them; classes alone where left out, or all that a "
        "model without classes does.",
        unit="list",
    )
    min_probability: float = setting(
        0.0, help="Particles below it get no class (number 0).", minimum=0, maximum=1
    )
    unknown_threshold: float | None = setting(
        None,
        help="Particles whose unknown score is above it get no class (number 0): at 1, about 1 in 20 of the known classes, and most of what "
        "the model has never seen.",
        above=0,
    )
    split_classes: bool = setting(
        False, flags=("--split-classes",), help="Also write one STAR file per class."
    )
    explain: str | None = setting(
        None,
        unit="layer",
        help="Write, in Explanations/, which voxels spoke for the class of each particle: Grad-CAM of a layer such as layer3, or auto.",
    )
    averages: bool = setting(
        False,
        flags=("--averages",),
        help="Also write the mean of the boxes of each class, and of their recovered densities, into Averages/; with angles "
        "in the table also turned back by them.",
    )
    label_column: str | None = label_column_setting()
    box: int | None = box_to_cut_setting()
    device: str = device_setting()
    precision: Precision = setting(
        "auto", help="Number type on the device; auto is bf16 on CUDA and fp32 on CPU."
    )
    batch_size: int = setting(
        32, flags=("--batch-size", "-b"), help="Particles per batch.", minimum=1, maximum=65536
    )
    boxes: BoxOrigin = BoxOrigin()
    cutting: Cutting = Cutting()


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What a prediction wrote, and what it says.

    Attributes
    ----------
    table, page
        The user's table with columns added, and the page to look at.
    classes
        Names, in the order of the numbers.
    decisions
        Probabilities, class and status of each row; None where no classes were asked for.
    done, unreadable
        How many rows the network has spoken of, and how many cannot be read.
    volumes
        Folder of the volumes of each output that has some.
    averages
        Files of the averages of classes.
    parts, sets
        Files of single classes, and optimisation sets.
    scores
        Against the labels in the table; None where there are none.
    tomograms
        Classes by tomogram, and the tomograms that are unlike the others; None where no classes are told, or no tomograms named.
    origin
        Whether the network's outputs were computed, reused or continued.
    """

    table: Path
    page: Path
    classes: tuple[str, ...]
    decisions: "Decisions | None"
    done: int
    unreadable: int
    volumes: dict[str, Path]
    averages: tuple[Path, ...]
    parts: tuple[Path, ...]
    sets: tuple[Path, ...]
    scores: "Metrics | None"
    tomograms: "ByTomogram | None"
    origin: "Origin"


def predict(request: PredictRequest, listener: Listener = TO_LOG) -> PredictResult:
    """Classify particles with a model folder or an exported ONNX file.

    Fills ``outputs/`` in the folder of the results, or finds there what an earlier run with the same particles and model said;
    everything else is written from that.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    path, choice = particles_path(request.particles), request.choice
    request = request if choice.given else request.replace(choice=_choice_without_training(request))
    writes = replace(WRITES, files=WRITES.files + SPLIT) if request.split_classes else WRITES
    inputs = (path, request.boxes.tomograms, choice.onnx)
    with claim(request.outdir, writes, inputs, overwrite=request.overwrite) as place:
        return _predict(request, path, place, listener)


def _predict(request: PredictRequest, path: Path, place: Workplace, listener: Listener) -> PredictResult:
    request.choice.check_one()
    from cryoclass.checks.boxes import flips
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.fit import check_contrast, check_domain
    from cryoclass.inference.pipeline import Flow
    from cryoclass.outputs import FOLDER, open_outputs
    from cryoclass.particles import read_particles
    from cryoclass.results import WHERE_LOST, Demands, decide
    from cryoclass.sources import Boxes, too_many_lost
    from cryoclass.tasks import CLASSIFY

    workers = use_cores(request.num_workers)
    engine = _engine(request, listener)
    table = read_particles(path)
    labels = _known_labels(table, request.label_column, engine.card, listener)
    model = Fitting(card=engine.card, rescale=request.choice.rescale, box=request.box)
    source = open_model_source(table, request.boxes, request.cutting, model, listener)
    boxes = Boxes(source=source, workers=workers)
    card, invert, found = engine.card, request.cutting.invert, boxes.sample.contrast
    enforce(check_contrast(boxes.sample, card, invert, flipped=flips(source)), listener)
    if card.any_box:
        enforce(check_domain(source, found, card.backbone, card.learnt_from, card.preparation), listener)
    facts = facts_of(
        engine,
        boxes,
        {"precision": request.precision, "tasks": engine.card.tasks, "explain": request.explain},
    )
    volumes = _volume_files(request.outdir, table, source, engine.card)
    check_space(request.outdir, table, engine.card, 1 + request.split_classes, listener, volumes)
    poses = _poses(table, source, listener) if request.averages else None
    flow = Flow(batch_size=request.batch_size, workers=workers, track=listener.track)
    place.begin()
    outputs = open_outputs(request.outdir / FOLDER, facts, volumes)
    origin = compute_outputs(engine, boxes, outputs, flow, listener)
    demands = Demands(min_probability=request.min_probability, max_unknown=request.unknown_threshold)
    decisions = decide(outputs, demands) if CLASSIFY.name in engine.card.tasks else None
    said = _Said(
        table=table,
        card=engine.card,
        outputs=outputs,
        decisions=decisions,
        averages=_averages(decisions, outputs, boxes, poses, listener) if request.averages else [],
        labels=labels,
        tomograms=_tomograms(table, decisions, engine.card, boxes, listener),
        problem=too_many_lost(outputs.lost, len(table), request.max_unreadable, WHERE_LOST),
    )
    with place.finishing():
        result = _write(request, said, boxes, origin)
    if said.problem is not None:
        raise said.problem
    return result


@dataclass(frozen=True, kw_only=True)
class _Said:
    """All that the written files follow from; ``labels`` (n,) are -1 where unknown, the problem is that too much is unreadable."""

    table: "Particles"
    card: "ModelCard"
    outputs: "Outputs"
    decisions: "Decisions | None"
    averages: "list[ClassAverage]"
    labels: "np.ndarray"
    tomograms: "ByTomogram | None"
    problem: "ParticleError | None"


def _engine(request: PredictRequest, listener: Listener) -> "Engine":
    """Return what runs the model, asked for the tasks of the request.

    Raises
    ------
    UsageError
        The model does not do one of them.
    """
    from cryoclass.familiarity import UNKNOWN_SCORE
    from cryoclass.tasks import CLASSIFY, task_named, tasks_typed

    typed = tasks_typed(request.tasks) if request.tasks is not None else ()
    engine = open_engine(request.choice, request.device, request.precision, listener)
    able = tuple(task_named(name) for name in engine.card.tasks)
    asked = typed or ((CLASSIFY,) if CLASSIFY in able else able)
    lacking = [task.name for task in asked if task.name not in engine.card.tasks]
    if lacking:
        raise UsageError(
            f"--tasks is {request.tasks}, but this model does not {lacking[0]}: it has learnt to "
            f"{', '.join(engine.card.tasks)}.",
            f"Use --tasks {','.join(engine.card.tasks)}, or a model of cryoclass finetune --tasks {request.tasks}.",
        )
    needing = [flag for flag, on in _class_flags(request) if on]
    if needing and "classify" not in {task.name for task in asked}:
        raise UsageError(f"{needing[0]} needs classes.", "Add classify to --tasks.")
    engine = engine.asked(asked)
    if request.unknown_threshold is not None and UNKNOWN_SCORE not in engine.card.outputs:
        raise UsageError(
            "--unknown-threshold needs an unknown score, and this model gives none.",
            "Fine-tune again, with two particles or more of a class; or leave the option out.",
        )
    if request.explain is None:
        return engine
    from cryoclass.inference.explaining import ExplainingEngine

    return ExplainingEngine(engine, request.explain)


def _class_flags(request: PredictRequest) -> tuple[tuple[str, bool], ...]:
    return (
        ("--split-classes", request.split_classes),
        ("--averages", request.averages),
        ("--explain", request.explain is not None),
        ("--unknown-threshold", request.unknown_threshold is not None),
    )


def _volume_files(outdir: Path, table: "Particles", source: "Source", card: "ModelCard") -> "VolumeFiles":
    """Return where the outputs go that are volumes."""
    from cryoclass.file_names import row_paths
    from cryoclass.outputs import VolumeFiles

    folders = {name: outdir / folder for name, folder in VOLUME_FOLDERS.items() if name in card.outputs}
    paths = {name: row_paths(folder, table.tomograms) for name, folder in folders.items()}
    return VolumeFiles(paths=paths, angpix=source.angpix, box=source.box)


def _poses(table: "Particles", source: "Source", listener: Listener) -> "Poses | None":
    """Return how particles lie in their boxes, before anything is computed: a cell that is no number ends the run."""
    from cryoclass.checks.findings import enforce
    from cryoclass.checks.poses import check_poses
    from cryoclass.poses import poses_of

    enforce(check_poses(table, source), listener)
    return poses_of(table, source)


def _averages(
    decisions: "Decisions | None",
    outputs: "Outputs",
    boxes: "Boxes",
    poses: "Poses | None",
    listener: Listener,
) -> "list[ClassAverage]":
    """Average the boxes of each class, and their densities where there are some."""
    from cryoclass.averages import WrittenVolumes, class_averages

    assert decisions is not None  # the flag was refused without them  # noqa: S101
    files = outputs.volumes
    sources: dict[str, Source] = {"raw": boxes.source}
    if "density" in files.paths:
        sources["density"] = WrittenVolumes(files.paths["density"], files.box, files.angpix)
    averages = class_averages(sources, decisions.classes, poses, boxes.workers, listener.track)
    boxes.check_unchanged()
    return averages


def _tomograms(
    table: "Particles", decisions: "Decisions | None", card: "ModelCard", boxes: "Boxes", listener: Listener
) -> "ByTomogram | None":
    from cryoclass.jobs.by_tomogram import look_at_tomograms

    if decisions is None:
        return None
    return look_at_tomograms(table, decisions, card.classes, boxes, listener)


def _choice_without_training(request: PredictRequest) -> ModelChoice:
    """Return the model that comes with cryoclass, where it does what is asked for; else nothing is chosen."""
    from cryoclass.backbones.packaged import VOXEL_MODEL, voxel_card
    from cryoclass.tasks import tasks_typed

    if request.tasks is None or not {task.name for task in tasks_typed(request.tasks)} <= {
        *voxel_card().tasks
    }:
        return request.choice
    return request.choice.replace(model=Path(VOXEL_MODEL))


def _known_labels(
    table: "Particles", label_column: str | None, card: "ModelCard", listener: Listener
) -> "np.ndarray":
    """Return the number of each particle's label among the model's classes (n,); -1 where there is none.

    A class number of the file is taken for a label only where the user names that column: it is what most files
    have from an earlier classification.
    """
    import numpy as np

    if not card.classes or (label_column is None and not table.has_own_labels):
        return np.full(len(table), -1)
    numbers = {name: number for number, name in enumerate(card.classes)}
    texts = table.labels(table.label_column(label_column))
    strange = Counter(text for text in texts if text is not None and text not in numbers)
    if strange:
        shown = ", ".join(name for name, _ in strange.most_common(3))
        listener.warn(
            f"{strange.total()} labels are not classes of the model ({shown}); they are not scored."
        )
    return np.array([-1 if text is None else numbers.get(text, -1) for text in texts])


def _write(request: PredictRequest, said: _Said, boxes: "Boxes", origin: "Origin") -> PredictResult:
    """Write everything."""
    from cryoclass.averages import write_averages
    from cryoclass.jobs.by_tomogram import write_tomograms
    from cryoclass.jobs.pages import Predicted, write_prediction_page
    from cryoclass.results import (
        INCOMPLETE,
        explanation_columns,
        write_metrics,
        write_optimisation_sets,
        write_skipped,
        write_split,
    )
    from cryoclass.tasks import task_named

    outdir, table, classes = request.outdir, said.table, said.card.classes
    tasks, told = [task_named(name) for name in said.card.tasks], _told(said, outdir)
    star, page = outdir / (INCOMPLETE if said.problem else TABLE), outdir / "report.html"
    columns = {name: cells for task in tasks for name, cells in task.columns(told).items()}
    columns |= explanation_columns(told)
    result = table.with_columns(columns)
    write_skipped(outdir / "skipped.csv", table, said.outputs.reasons)
    for task in tasks:
        task.write_files(outdir, told)
    parts = write_split(outdir, result, told.decided, classes) if request.split_classes else []
    averages = write_averages(outdir / AVERAGES, said.averages, classes, boxes.source.angpix)
    sets = write_optimisation_sets(table, request.boxes.tomograms, [star, *parts])
    scores = _score(said)
    if scores is not None:
        write_metrics(outdir / "metrics.json", {"labelled": scores.to_dict()})
    if said.tomograms is not None:
        write_tomograms(outdir / "tomograms.csv", said.tomograms, classes)
    predicted = Predicted(
        told=told, outputs=said.outputs, labels=said.labels, card=said.card, tomograms=said.tomograms
    )
    write_prediction_page(page, predicted, boxes)
    said.outputs.volumes.clear(outdir / folder for folder in VOLUME_FOLDERS.values())
    result.write(star)
    return PredictResult(
        table=star,
        page=page,
        classes=classes,
        decisions=said.decisions,
        done=len(said.outputs.done),
        unreadable=said.outputs.lost,
        volumes={name: outdir / VOLUME_FOLDERS[name] for name in said.outputs.volumes.paths},
        averages=tuple(averages),
        parts=tuple(parts),
        sets=tuple(sets),
        scores=scores,
        tomograms=said.tomograms,
        origin=origin,
    )


def _told(said: _Said, outdir: Path) -> "Told":
    """Return what the tasks say of the rows; the table names volumes as RELION looks for them."""
    from cryoclass.results import Told, names_in_table

    done, star = said.outputs.done, outdir / TABLE
    volumes = {name: names_in_table(paths, done, star) for name, paths in said.outputs.volumes.paths.items()}
    return Told(decisions=said.decisions, classes=said.card.classes, volumes=volumes, averages=said.averages)


def _score(said: _Said) -> "Metrics | None":
    """Hold the probabilities against the labels of the table, where it has some."""
    from cryoclass.tasks import CLASSIFY

    if said.decisions is None:
        return None
    done = said.decisions.done
    known = done[said.labels[done] >= 0]
    if not len(known):
        return None
    probabilities = said.decisions.probabilities[known]
    return CLASSIFY.score({"probabilities": probabilities}, said.labels[known], said.card.classes)
