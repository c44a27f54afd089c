"""Pre-training, read from top to bottom: :func:`teach_shape` over periods, :func:`_learn` over steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cryoclass.backbones.res32 import Res32
from cryoclass.backbones.spec import Backbone
from cryoclass.card import LearntFrom, WeightFacts
from cryoclass.errors import CryoclassError, UsageError
from cryoclass.machine import computing_in
from cryoclass.preparation import Preparer
from cryoclass.pretraining.batches import check_sizes, draw_batch, invent, snr_at
from cryoclass.pretraining.objective import Tasks
from cryoclass.pretraining.own import altered
from cryoclass.pretraining.retrieval import held_out, retrieval
from cryoclass.pretraining.sharpen import sharpen
from cryoclass.progress import Track, silent
from cryoclass.settings import Invention, Preparation, Pretraining, Yardsticks
from cryoclass.simulation.species import describe
from cryoclass.training.boxes import KeptBoxes
from cryoclass.training.checkpoint import (
    Keeper,
    Keeping,
    State,
    check_optimizer,
    check_random_state,
    hold,
    hold_that,
    random_state,
    read_records,
    set_optimizer,
    set_random_state,
    space,
)
from cryoclass.training.loop import memory_explained

WARM_UP = 0.03  # share of the steps in which the learning rate rises
PERIODS = 40  # the history's lines, and checkpoints
LONGEST = 1000  # steps of a period
COPIES = 3  # of the weights in a checkpoint: as they are, and two moments of Adam


@dataclass(frozen=True, kw_only=True)
class Period:
    """One line of the history: what happened up to ``step``.

    ``describe`` and ``contrast`` are mean losses, ``retrieval`` is the score of
    :func:`cryoclass.pretraining.retrieval.retrieval`, ``drawing`` the time for drawing boxes, beside the steps, as a share of ``seconds``;
    on a GPU, which draws and learns in turn, most of it is waiting.
    """

    step: int
    boxes: int
    lr: float
    snr_low: float
    snr_high: float
    describe: float
    contrast: float
    retrieval: float
    seconds: float = field(compare=False)
    drawing: float = field(compare=False)


def _nobody(_periods: Sequence[Period]) -> None:
    return


def _there_is_space(_needed: int) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class PretrainingRun:
    """Where and with what to pre-train.

    Parameters
    ----------
    device
        The CPU, or a CUDA device.
    keeping
        Where checkpoints are kept; the run goes on from those that it finds there.
    own
        The user's unlabelled particles; a quarter of the species of each step are theirs then.
    facts
        What else must be the same for the run to go on.
    yardsticks
        On how many species the run is measured.
    track
        Hears about the progress within a period.
    on_period
        Hears, after each, of all periods so far.
    before_work
        Hears, before the first step, how many bytes the run will write; may refuse.
    """

    device: torch.device
    keeping: Keeping = Keeping()
    own: KeptBoxes | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    yardsticks: Yardsticks = Yardsticks()
    track: Track = silent
    on_period: Callable[[Sequence[Period]], None] = _nobody
    before_work: Callable[[int], None] = _there_is_space


OWN_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What came out: the history, the score of the backbone as it is at the end, and on what it was measured."""

    periods: tuple[Period, ...]
    retrieval: float
    yardsticks: Yardsticks


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every step needs."""

    backbone: Backbone
    tasks: Tasks
    optimizer: torch.optim.Optimizer
    preparer: Preparer
    settings: Pretraining
    invention: Invention
    run: PretrainingRun

    @property
    def weights(self) -> State:
        """Backbone and tasks by the name of each weight."""
        return {"backbone": dict(self.backbone.state_dict()), "tasks": dict(self.tasks.state_dict())}


@dataclass(kw_only=True)
class _Progress:
    """What changes from step to step beside the weights.

    Attributes
    ----------
    records
        Of the periods that are done.
    step
        How many steps are done.
    losses
        Sum of both losses over those of this period, (2,).
    boxes
        That a step shows.
    seconds, drawing
        That this period has taken, and the drawing of its boxes.
    """

    losses: Tensor
    records: list[Period] = field(default_factory=list)
    step: int = 0
    boxes: int = 0
    seconds: float = 0.0
    drawing: float = 0.0

    @property
    def first(self) -> int:
        """The first step of this period."""
        return self.records[-1].step if self.records else 0


@memory_explained("--batch-species")
def teach_shape(
    backbone: Backbone,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    run: PretrainingRun,
) -> Pretrained:
    """Teach a backbone, in place, what species are like, and which boxes show the same one.

    In the end it knows what it has learnt from (:attr:`cryoclass.backbones.spec.Backbone.facts`).
    Every step is seeded on its own, by ``settings.seed`` and its number, so a run that was killed and goes on gives what an
    unbroken one gives, to the bit on a CPU with the same number of threads.

    Raises
    ------
    CryoclassError
        The loss is no longer a number, or there is too little memory.
    ModelError, UsageError
        The checkpoints are damaged, or belong to another run; or boxes do not suit each other or the species.
    """
    _check_boxes(preparation, invention, run.own)
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    torch.manual_seed(settings.seed)  # the tasks' heads are drawn from torch's own generator
    tasks = Tasks(backbone.width, *_spread(settings.seed, invention, run.yardsticks.reference)).to(run.device)
    backbone.to(run.device).to(memory_format=torch.channels_last_3d)
    bench = _Bench(
        backbone=backbone,
        tasks=tasks,
        optimizer=torch.optim.AdamW(
            [*backbone.parameters(), *tasks.parameters()],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        ),
        preparer=Preparer(preparation).to(run.device),
        settings=settings,
        invention=invention,
        run=run,
    )
    run.before_work(_bytes_to_write(bench))
    keeper = _keeper(bench)
    progress = _resumed(bench, keeper)
    shown = held_out(invention, run.yardsticks).to(run.device)
    while progress.first < settings.steps:
        _learn(bench, progress, keeper)
        _close(bench, progress, lambda: retrieval(backbone, bench.preparer, shown))
        keeper.end_part(lambda: _state(bench, progress), last=progress.first >= settings.steps)
        run.on_period(progress.records)
    if run.own is not None:
        run.own.check_unchanged()
    backbone.facts = WeightFacts(learnt_from=_learnt_from(preparation, invention, run.own))
    if isinstance(backbone, Res32):
        sharpen(backbone, bench.preparer, invention, run.yardsticks, run.device, settings.steps)
    score = retrieval(backbone, bench.preparer, shown)
    return Pretrained(periods=tuple(progress.records), retrieval=score, yardsticks=run.yardsticks)


def _check_boxes(preparation: Preparation, invention: Invention, own: KeptBoxes | None) -> None:
    """Refuse, before anything is computed, boxes that would end the run somewhere on its way."""
    check_sizes(invention)
    if own is not None and preparation.depth == "keep" and own.source.box != invention.box:
        raise UsageError(
            f"--depth keep leaves your boxes {own.source.box} slices and the invented ones {invention.box}.",
            "Use --depth resize.",
        )


def _learnt_from(preparation: Preparation, invention: Invention, own: KeptBoxes | None) -> LearntFrom:
    """Return what was shown: the voxels of the network's grid, and bright particles."""
    width = preparation.input_size[2]
    voxels = [angpix * invention.box / width for angpix in invention.pixel_range]
    if own is not None:
        voxels.append(own.source.angpix * own.source.box / width)
    return LearntFrom(pixel_range=(min(voxels), max(voxels)), contrast="bright")


def period_of(settings: Pretraining) -> int:
    """Return the number of steps from one line of the history to the next."""
    return max(1, min(LONGEST, settings.steps // PERIODS))


def _learn(bench: _Bench, progress: _Progress, keeper: Keeper) -> None:
    """Take the steps of a period, or those that a killed run has left."""
    settings, before = bench.settings, progress.seconds
    started = time.perf_counter()
    last = min(progress.first + period_of(settings), settings.steps)
    steps = range(progress.step, last)
    bench.backbone.train()
    stream = bench.run.track(_ahead(bench, steps), f"Step {last}/{settings.steps}", len(steps))
    with keeper.between_steps(lambda: _state(bench, progress)) as step_is_done:
        for shown in stream:
            rate = learning_rate(progress.step / settings.steps, settings.lr)
            bench.optimizer.param_groups[0]["lr"] = rate
            progress.losses += _step(bench, shown)
            progress.boxes, progress.drawing = len(shown.x), progress.drawing + shown.seconds
            progress.seconds = before + time.perf_counter() - started
            progress.step += 1
            step_is_done()


def _close(bench: _Bench, progress: _Progress, retrieval_on: Callable[[], float]) -> None:
    """Write down how a period went, and begin the next one."""
    started, settings = time.perf_counter(), bench.settings
    last = (progress.step - 1) / settings.steps
    snr = snr_at(last, settings, bench.invention)
    describe, contrast = (progress.losses / (progress.step - progress.first)).tolist()
    if not math.isfinite(contrast + describe):
        raise CryoclassError(
            f"Pre-training failed before step {progress.step}: the loss is no longer a number.",
            "Use a lower --lr.",
        )
    score = retrieval_on()
    seconds = progress.seconds + time.perf_counter() - started
    record = Period(
        step=progress.step,
        boxes=progress.boxes * progress.step,
        lr=learning_rate(last, settings.lr),
        snr_low=snr[0],
        snr_high=snr[1],
        describe=describe,
        contrast=contrast,
        retrieval=score,
        seconds=seconds,
        drawing=progress.drawing / seconds,
    )
    progress.records.append(record)
    progress.losses.zero_()
    progress.seconds = progress.drawing = 0.0


class _Shown(NamedTuple):
    """What the network sees in one step: input (N, 1, d, h, w), number of the species (N,), description (N, F).

    ``seconds`` is the time that drawing it took.
    """

    x: Tensor
    species: Tensor
    description: Tensor
    seconds: float


def _ahead(bench: _Bench, steps: range) -> Iterator[_Shown]:
    """Draw what each step shows, one step ahead of its use."""
    threads = torch.get_num_threads()  # a new thread would take as many as there are cores
    if not steps:
        return
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as drawer:
        coming = drawer.submit(_draw, bench, steps[0])
        for step in steps[1:]:
            shown, coming = coming.result(), drawer.submit(_draw, bench, step)
            yield shown
        yield coming.result()


@torch.no_grad()
def _draw(bench: _Bench, step: int) -> _Shown:
    """Draw the boxes of a step, the user's own among them, and make network input of them."""
    started, settings, run = time.perf_counter(), bench.settings, bench.run
    snr = snr_at(step / settings.steps, settings, bench.invention)
    seed = int(np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(run.device).manual_seed(seed)
    batch = draw_batch(settings.species, settings.views, snr, bench.invention, generator)
    x = bench.preparer(batch.boxes.flatten(0, 1))
    description = batch.description
    if run.own is not None:
        count = max(1, round(OWN_SHARE * settings.species))
        chosen = torch.randint(len(run.own.rows), (count,), generator=generator, device=run.device).cpu()
        raw = run.own.read(chosen).to(run.device)
        own = altered(raw, settings.views, bench.invention, generator)
        x = torch.cat([x, bench.preparer(own.flatten(0, 1))])
        description = torch.cat([description, description.new_full((count, description.shape[1]), torch.nan)])
    number = torch.arange(len(description), device=run.device).repeat_interleave(settings.views)
    return _Shown(x, number, description[number], time.perf_counter() - started)


def _step(bench: _Bench, shown: _Shown) -> Tensor:
    """Learn from one batch; return both losses, (2,)."""
    settings = bench.settings
    with computing_in(bench.run.device):
        vectors = bench.backbone(shown.x.contiguous(memory_format=torch.channels_last_3d))
    temperature = settings.temperature if settings.contrast else None
    losses = bench.tasks(vectors.float(), shown.species, shown.description, temperature)
    bench.optimizer.zero_grad()
    (settings.describe * losses.describe + settings.contrast * losses.contrast).backward()
    bench.optimizer.step()
    return torch.stack(losses).detach()


def learning_rate(done: float, highest: float) -> float:
    """Return the learning rate after a share ``done`` of the steps: up along a line, then down along a cosine."""
    if done < WARM_UP:
        return highest * (0.01 + 0.99 * done / WARM_UP)
    return highest * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _spread(seed: int, invention: Invention, species: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of descriptions over many species, drawn on the CPU whatever the device."""
    generator = torch.Generator().manual_seed(seed)
    described = []
    for _ in range(10):
        drawn, angpix = invent(species // 10, invention, generator)
        described.append(describe(drawn, angpix * invention.box / 32))
    every = torch.cat(described)
    return every.mean(0), every.std(0)


# ------------------------------------------------------------------------------------------ checkpoint


def _state(bench: _Bench, progress: _Progress) -> State:
    """Return what is saved between two steps."""
    return {
        **bench.weights,
        "optimizer": bench.optimizer.state_dict()["state"],
        "records": [asdict(record) for record in progress.records],
        "step": progress.step,
        "losses": progress.losses,
        "boxes": progress.boxes,
        "seconds": progress.seconds,
        "drawing": progress.drawing,
        "random": random_state(bench.run.device),
    }


def _check_state(state: State, bench: _Bench) -> None:
    """Hold what was saved against what can go on from it; Misfit where it does not fit."""
    numbers = {"step": int, "losses": torch.zeros(2), "boxes": int, "seconds": float, "drawing": float}
    hold(state, {**bench.weights, "optimizer": dict, "records": list, **numbers, "random": dict})
    check_optimizer(state["optimizer"], bench.optimizer)
    check_random_state(state["random"])
    steps, period = bench.settings.steps, period_of(bench.settings)
    ends = [0, *(record.step for record in read_records(state["records"], Period))]
    in_turn = all(now == min(before + period, steps) > before for before, now in pairwise(ends))
    hold_that(in_turn, "the periods do not follow each other")
    hold_that(ends[-1] <= state["step"] <= min(ends[-1] + period, steps), "its step is not of its period")
    hold_that((state["boxes"] > 0) == (state["step"] > 0), "it does not say how many boxes were seen")


def _resumed(bench: _Bench, keeper: Keeper) -> _Progress:
    """Bring everything to where the checkpoint left off; a new start where there is none."""
    found = keeper.find(lambda state: _check_state(state, bench))
    if found is None:
        return _Progress(losses=torch.zeros(2, device=bench.run.device))
    state, name = found
    bench.backbone.load_state_dict(state["backbone"])
    bench.tasks.load_state_dict(state["tasks"])
    set_optimizer(bench.optimizer, state["optimizer"])
    set_random_state(state["random"], bench.run.device)
    bench.run.keeping.note(f"going on after step {state['step']} of {bench.settings.steps}, from {name}")
    return _Progress(
        losses=state["losses"].to(bench.run.device),
        records=read_records(state["records"], Period),
        **{name: state[name] for name in ("step", "boxes", "seconds", "drawing")},
    )


def _bytes_to_write(bench: _Bench) -> int:
    folder = bench.run.keeping.folder
    weights, tasks = (sum(v.nbytes for v in part.values()) for part in bench.weights.values())
    return 0 if folder is None else space(COPIES * (weights + tasks), folder) + weights


def _keeper(bench: _Bench) -> Keeper:
    """Return what keeps the states of a run, and knows it by its settings."""
    return Keeper(
        keeping=bench.run.keeping, settings=_settings(bench), place={"device": str(bench.run.device)}
    )


def _settings(bench: _Bench) -> dict[str, str]:
    """Return what must be the same for a run to go on, in words."""
    own = bench.run.own
    facts = {**bench.settings.to_dict(), **bench.invention.to_dict(), **bench.run.facts}
    return {
        **{name: str(value) for name, value in facts.items()},
        **{name: str(value) for name, value in bench.preparer.settings.to_dict().items()},
        "weights": str(sum(weight.numel() for weight in bench.backbone.parameters())),
        "yardsticks": str(asdict(bench.run.yardsticks)),
        "own particles": "none" if own is None else str(len(own.rows)),
    }
