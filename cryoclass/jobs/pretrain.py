"""A network that has learnt shape, before it sees a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    from cryoclass.backbones.spec import Backbone
    from cryoclass.pretraining.loop import Period, Pretrained, PretrainingRun
    from cryoclass.settings import Preparation
    from cryoclass.training.boxes import KeptBoxes


CARD = "backbone.json"  # comes last and says that all is there
WRITES = Writes(
    command="pretrain",
    last=CARD,
    files=("backbone.safetensors",),
    kept=("checkpoint*.pt", "history.csv", "times.csv"),
)


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
    pretrained
        History and score.
    """

    weights: Path
    card: Path
    backbone: str
    pretrained: "Pretrained"


def pretrain(
    request: PretrainRequest, listener: Listener = TO_LOG, command: Sequence[str] = ("pretrain",)
) -> PretrainResult:
    """Teach a network shape, without any label; write its weights and a card.

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
    with claim_run(request.outdir, WRITES, inputs, **keep) as place:
        return _pretrain(request, place, listener, command)


def _pretrain(
    request: PretrainRequest, place: Workplace, listener: Listener, command: Sequence[str]
) -> PretrainResult:
    _check_own(request)
    from cryoclass.card import BACKBONE_FOLDER, write_folder
    from cryoclass.pretraining.card import make_card
    from cryoclass.pretraining.loop import teach_shape
    from cryoclass.results import write_history

    workers = use_cores(request.num_workers)
    own = _read_own(request, workers, listener)
    backbone, preparation, start = _network(request, listener)
    run = _run(request, place, own, start, listener)
    result = teach_shape(backbone, preparation, request.pretraining, request.invention, run)
    name, outdir = request.learner.backbone, request.outdir
    facts = {
        "backbone": name,
        "command": command,
        "start": start,
        "device": str(run.device),
        "own_particles": len(own.rows) if own else 0,
    }
    card = make_card(backbone, preparation, request.pretraining, request.invention, result, facts)
    with place.finishing():
        write_history(outdir, result.periods)
        write_folder(outdir, backbone.state_dict(), card, BACKBONE_FOLDER)
    return PretrainResult(
        weights=outdir / BACKBONE_FOLDER.weights,
        card=outdir / BACKBONE_FOLDER.card,
        backbone=name,
        pretrained=result,
    )


def _network(request: PretrainRequest, listener: Listener) -> "tuple[Backbone, Preparation, str]":
    """Return the network, what it is shown, and what it starts from in words."""
    import torch

    from cryoclass.backbones.registry import load_backbone, spec

    learner = request.learner
    entry = spec(learner.backbone)
    preparation = entry.resolve(learner, box=request.invention.box)
    torch.manual_seed(request.pretraining.seed)
    backbone = load_backbone(
        learner.backbone, weights=learner.weights, as_pretrained=True, track=listener.track
    )
    return backbone, preparation, str(learner.weights) if learner.weights else entry.trained_on or "random"


def _run(
    request: PretrainRequest, place: Workplace, own: "KeptBoxes | None", start: str, listener: Listener
) -> "PretrainingRun":
    import torch

    from cryoclass.files import content
    from cryoclass.machine import choose_device
    from cryoclass.pretraining.loop import PretrainingRun
    from cryoclass.results import write_history
    from cryoclass.sources import Boxes

    device = choose_device(request.device)
    name, weights = request.learner.backbone, request.learner.weights
    listener.note(f"{name}, start: {start}, on {device}, {torch.get_num_threads()} threads")

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
            "start": content(weights)[:12] if weights else start,
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
