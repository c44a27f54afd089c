"""A network that has learnt shape, or what masks and densities look like, before it sees a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoclass.claims import claim_run
from cryoclass.errors import UsageError
from cryoclass.jobs.going_on import before_work, keeping
from cryoclass.jobs.opening import open_source, use_cores
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import (
    BoxOrigin,
    Cutting,
    Invention,
    Learner,
    Pretraining,
    WorkRequest,
    Yardsticks,
    box_to_cut_setting,
    device_setting,
    outdir_setting,
    resume_setting,
    setting,
)

if TYPE_CHECKING:
    from cryoclass.backbones.spec import Backbone, BackboneSpec
    from cryoclass.pretraining.loop import Period, PretrainingRun
    from cryoclass.settings import Preparation
    from cryoclass.tasks import Task
    from cryoclass.training.boxes import KeptBoxes


CARD = "backbone.json"  # comes last and says that all is there
KEPT = ("checkpoint*.pt", "history.csv", "times.csv")
WRITES = Writes(command="pretrain", last=CARD, files=("backbone.safetensors",), kept=KEPT)
MODEL_WRITES = Writes(command="pretrain", last="model.json", files=("model.safetensors",), kept=KEPT)

SHAPE_START, VOXEL_START = "res32", "res32-species"  # the networks where none is named
VOXEL_TASKS = ("segment", "recover")


@dataclass(frozen=True, kw_only=True)
class PretrainRequest(WorkRequest):
    """What to teach to which network."""

    particles: Path | None = setting(
        None,
        argument=True,
        unit="particles",
        help="STAR file of your own unlabelled particles, as further pairs; invented species alone where left out.",
    )
    outdir: Path = outdir_setting("Pretrain")
    tasks: str | None = setting(
        None,
        help="Teach, instead of shape, what needs no label: segment (which voxels belong to a particle), recover (its density "
        "without noise and missing wedge), or both with a comma between them. The backbone stays as it is.",
        unit="list",
    )
    device: str = device_setting()
    resume: bool = resume_setting()
    box: int | None = box_to_cut_setting()
    pretraining: Pretraining = Pretraining()
    invention: Invention = Invention()
    learner: Learner = Learner()
    boxes: BoxOrigin = BoxOrigin()
    cutting: Cutting = Cutting()
    yardsticks: Yardsticks = Yardsticks()
    checkpoint_seconds: float = 30.0  # no option: the cost of saving is limited too


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a pre-training did.

    Attributes
    ----------
    weights, card
        The files to start from.
    backbone
        The network that they belong to.
    periods
        The history.
    scores
        By what is measured on species that were never trained on, for people.
    model
        The folder of the model that was made, where tasks were taught.
    """

    weights: Path
    card: Path
    backbone: str
    periods: "tuple[Period, ...]"
    scores: dict[str, str]
    model: Path | None


def pretrain(
    request: PretrainRequest, listener: Listener = TO_LOG, command: Sequence[str] = ("pretrain",)
) -> PretrainResult:
    """Teach a network, without any label, shape, or what masks and densities look like; write its weights and a card.

    The listener is told each line of the history (:class:`cryoclass.pretraining.loop.Period`). A run that was killed goes on
    when the same request comes again.

    Parameters
    ----------
    request
        What to do.
    listener
        Hears how it goes.
    command
        What the card names as the command that made the weights.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    inputs = (request.particles, request.boxes.tomograms, request.learner.weights)
    keep = {"resume": request.resume, "overwrite": request.overwrite}
    teach, writes = (_pretrain, WRITES) if request.tasks is None else (_pretrain_voxels, MODEL_WRITES)
    with claim_run(request.outdir, writes, inputs, **keep) as place:
        return teach(request, place, listener, command)


def _pretrain(
    request: PretrainRequest, place: Workplace, listener: Listener, command: Sequence[str]
) -> PretrainResult:
    _check_own(request)
    from cryoclass.card import BACKBONE_FOLDER, write_folder
    from cryoclass.pretraining.card import make_card
    from cryoclass.pretraining.shape import teach_shape
    from cryoclass.results import write_history

    workers = use_cores(request.num_workers)
    own = _read_own(request, workers, listener)
    network = _network(request, SHAPE_START, listener)
    run = _run(request, place, network, own, listener)
    result = teach_shape(network.backbone, network.preparation, request.pretraining, request.invention, run)
    outdir, facts = request.outdir, network.facts(command, run)
    facts["own_particles"] = len(own.rows) if own else 0
    card = make_card(
        network.backbone, network.preparation, request.pretraining, request.invention, result, facts
    )
    with place.finishing():
        write_history(outdir, result.periods)
        write_folder(outdir, network.backbone.state_dict(), card, BACKBONE_FOLDER)
    return PretrainResult(
        weights=outdir / BACKBONE_FOLDER.weights,
        card=outdir / BACKBONE_FOLDER.card,
        backbone=network.entry.name,
        periods=result.periods,
        scores={
            "retrieval": f"{result.retrieval:.3f} of held-out boxes lie nearest to one of their own species"
        },
        model=None,
    )


def _pretrain_voxels(
    request: PretrainRequest, place: Workplace, listener: Listener, command: Sequence[str]
) -> PretrainResult:
    tasks = _voxel_tasks(request)
    from cryoclass.card import MODEL_FOLDER, write_folder
    from cryoclass.classifier import Classifier
    from cryoclass.pretraining.card import make_voxel_card
    from cryoclass.pretraining.voxels import teach_voxels
    from cryoclass.results import write_history

    use_cores(request.num_workers)
    network = _network(request, VOXEL_START, listener)
    if network.start == "random":
        raise UsageError(
            f"--tasks leaves the backbone as it is, and {network.entry.name} begins at random.",
            "Name one that has learnt, such as --backbone res32-species, or its weights with --weights.",
        )
    classifier = Classifier(network.entry.name, 0, tasks)
    classifier.backbone = network.backbone
    run = _run(request, place, network, None, listener)
    result = teach_voxels(classifier, network.preparation, request.pretraining, request.invention, run)
    facts = network.facts(command, run)
    card = make_voxel_card(
        classifier, network.preparation, request.pretraining, request.invention, result, facts
    )
    outdir = request.outdir
    with place.finishing():
        write_history(outdir, result.periods)
        write_folder(outdir, classifier.state_dict(), card, MODEL_FOLDER)
    return PretrainResult(
        weights=outdir / MODEL_FOLDER.weights,
        card=outdir / MODEL_FOLDER.card,
        backbone=network.entry.name,
        periods=result.periods,
        scores=result.in_words,
        model=outdir,
    )


def _voxel_tasks(request: PretrainRequest) -> "tuple[Task, ...]":
    """Return what is to be taught beside shape.

    Raises
    ------
    UsageError
        Something that only particles with labels, or only a backbone that learns, could be taught.
    """
    from cryoclass.tasks import tasks_typed

    tasks = tasks_typed(request.tasks or "", VOXEL_TASKS)
    if request.particles is not None:
        raise UsageError(
            "nobody knows the masks and densities of your own particles, so they cannot take part with --tasks.",
            "Leave the STAR file out; or use cryoclass finetune --tasks, where a column names masks or densities.",
        )
    if request.pretraining.contrast:
        raise UsageError(
            "--contrast is of no use with --tasks: it teaches the backbone, which stays as it is.",
            "Leave out one of the two.",
        )
    return tasks


@dataclass(frozen=True, kw_only=True)
class _Network:
    """The network, what it is shown, and what it starts from in words."""

    entry: "BackboneSpec"
    backbone: "Backbone"
    preparation: "Preparation"
    start: str

    def facts(self, command: Sequence[str], run: "PretrainingRun") -> dict[str, Any]:
        """Return what a card should know of a run."""
        return {
            "backbone": self.entry.name,
            "command": command,
            "start": self.start,
            "device": str(run.device),
        }


def _network(request: PretrainRequest, usual: str, listener: Listener) -> _Network:
    import torch

    from cryoclass.backbones.registry import load_backbone, spec

    learner, name = request.learner, request.learner.backbone or usual
    entry = spec(name)
    preparation = entry.resolve(learner, box=request.invention.box)
    torch.manual_seed(request.pretraining.seed)
    backbone = load_backbone(name, weights=learner.weights, as_pretrained=True, track=listener.track)
    start = str(learner.weights) if learner.weights else entry.trained_on or "random"
    return _Network(entry=entry, backbone=backbone, preparation=preparation, start=start)


def _run(
    request: PretrainRequest,
    place: Workplace,
    network: _Network,
    own: "KeptBoxes | None",
    listener: Listener,
) -> "PretrainingRun":
    import torch

    from cryoclass.files import content
    from cryoclass.machine import choose_device
    from cryoclass.pretraining.loop import PretrainingRun
    from cryoclass.results import write_history
    from cryoclass.sources import Boxes

    device = choose_device(request.device)
    name, weights = network.entry.name, request.learner.weights
    listener.note(f"{name}, start: {network.start}, on {device}, {torch.get_num_threads()} threads")

    def tell(periods: "Sequence[Period]") -> None:
        place.begin()  # a finished run that is gone through may come to another history
        write_history(request.outdir, periods)
        listener.tell(periods[-1])

    return PretrainingRun(
        device=device,
        keeping=keeping(request, listener),
        own=own,
        facts={
            "backbone": name,
            # What they are, and not where they lie: a disk may be moved, and a folder be named from elsewhere.
            "start": content(weights)[:12] if weights else network.start,
            "voxels": Boxes(source=own.source, workers=own.workers).fingerprint[:12] if own else "none",
        },
        yardsticks=request.yardsticks,
        track=listener.track,
        on_period=tell,
        before_work=before_work(request, place, listener),
    )


def _check_own(request: PretrainRequest) -> None:
    if request.particles is not None and not request.pretraining.contrast:
        raise UsageError(
            "nobody knows what your own particles are like; they can only be compared.",
            "Add --views 2 --contrast 0.1.",
        )


def _read_own(request: PretrainRequest, workers: int, listener: Listener) -> "KeptBoxes | None":
    """Read the user's own particles, as many as fit into memory."""
    if request.particles is None:
        return None
    import numpy as np

    from cryoclass.particles import read_particles
    from cryoclass.sources import lost, too_many_lost
    from cryoclass.training.boxes import read_boxes

    table = read_particles(request.particles)
    source = open_source(table, request.boxes, request.cutting, request.box, listener)
    read = read_boxes(source, np.arange(len(table)), None, workers, listener.track)
    problem = too_many_lost(lost(read.skipped), len(table), request.max_unreadable)
    if problem is not None:
        raise problem
    if not len(read.rows):
        raise UsageError(f"none of the {len(table)} particles of {request.particles} can be read.")
    listener.note(f"{len(read.rows)} of {len(table)} particles of {request.particles} take part")
    return read
