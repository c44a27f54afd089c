"""Pre-training, read from top to bottom: :func:`teach` over periods, :func:`_learn` over steps; what is learnt is a :class:`Lesson`."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cryoclass.errors import CryoclassError
from cryoclass.pretraining.batches import snr_at
from cryoclass.progress import Track, silent
from cryoclass.settings import Invention, Pretraining, Yardsticks
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

    ``figures`` are the mean of each loss, and the scores on species that are never trained on, by name; ``drawing`` is the time
    for drawing boxes, beside the steps, as a share of ``seconds``; on a GPU, which draws and learns in turn, most of it is waiting.
    """

    step: int
    boxes: int
    lr: float
    snr_low: float
    snr_high: float
    figures: dict[str, float]
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


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long, on what and where a network is taught."""

    settings: Pretraining
    invention: Invention
    run: PretrainingRun


class Lesson(ABC):
    """What a network is to learn from invented species.

    Attributes
    ----------
    losses
        Names of the losses.
    network
        What is written in the end.
    learns
        What changes, by the names under which checkpoints hold it.
    """

    losses: tuple[str, ...]
    network: nn.Module
    learns: Mapping[str, nn.Module]

    @abstractmethod
    def train(self) -> None:
        """Bring everything into the mode in which it learns."""

    @abstractmethod
    def draw(self, snr: tuple[float, float], generator: torch.Generator) -> Any:
        """Return what a step shows, at a range of the SNR; it has a length, the number of its boxes."""

    @abstractmethod
    def study(self, shown: Any) -> Tensor:
        """Return the losses on what :meth:`draw` gave, in the order of their names; with gradients."""

    @abstractmethod
    def together(self, losses: Tensor) -> Tensor:
        """Return the one loss that is made small."""

    @abstractmethod
    def score(self) -> dict[str, float]:
        """Return, by name, how well the network does on species that are never trained on."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """What must be the same for a run to go on, in words."""


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every step needs."""

    lesson: Lesson
    course: Course
    optimizer: torch.optim.Optimizer

    @property
    def run(self) -> PretrainingRun:
        """Where everything happens."""
        return self.course.run

    @property
    def settings(self) -> Pretraining:
        """How it is taught."""
        return self.course.settings

    @property
    def weights(self) -> State:
        """What learns, by the name of each weight."""
        return {name: dict(part.state_dict()) for name, part in self.lesson.learns.items()}


@dataclass(kw_only=True)
class _Progress:
    """What changes from step to step beside the weights.

    Attributes
    ----------
    losses
        Sum of the losses over the steps of this period, (P,).
    records
        Of the periods that are done.
    step
        How many steps are done.
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
def teach(lesson: Lesson, course: Course) -> tuple[Period, ...]:
    """Take all steps of a lesson, and return the history.

    Every step is seeded on its own, by ``settings.seed`` and its number, so a run that was killed and goes on gives what an
    unbroken one gives, to the bit on a CPU with the same number of threads.

    Raises
    ------
    CryoclassError
        The loss is no longer a number, or there is too little memory.
    ModelError, UsageError
        The checkpoints are damaged, or belong to another run; or boxes do not suit each other or the species.
    """
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    settings, run = course.settings, course.run
    bench = _Bench(lesson=lesson, course=course, optimizer=_optimizer(lesson, settings))
    run.before_work(_bytes_to_write(bench))
    keeper = Keeper(keeping=run.keeping, settings=_settings(bench), place={"device": str(run.device)})
    progress = _resumed(bench, keeper)
    while progress.first < settings.steps:
        _learn(bench, progress, keeper)
        _close(bench, progress)
        keeper.end_part(lambda: _state(bench, progress), last=progress.first >= settings.steps)
        run.on_period(progress.records)
    return tuple(progress.records)


def _optimizer(lesson: Lesson, settings: Pretraining) -> torch.optim.Optimizer:
    weights = [weight for part in lesson.learns.values() for weight in part.parameters()]
    return torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def period_of(settings: Pretraining) -> int:
    """Return the number of steps from one line of the history to the next."""
    return max(1, min(LONGEST, settings.steps // PERIODS))


def _learn(bench: _Bench, progress: _Progress, keeper: Keeper) -> None:
    """Take the steps of a period, or those that a killed run has left."""
    settings, before = bench.settings, progress.seconds
    started = time.perf_counter()
    last = min(progress.first + period_of(settings), settings.steps)
    steps = range(progress.step, last)
    bench.lesson.train()
    stream = bench.run.track(_ahead(bench, steps), f"Step {last}/{settings.steps}", len(steps))
    with keeper.between_steps(lambda: _state(bench, progress)) as step_is_done:
        for shown in stream:
            rate = learning_rate(progress.step / settings.steps, settings.lr)
            bench.optimizer.param_groups[0]["lr"] = rate
            progress.losses += _step(bench, shown)
            progress.boxes, progress.drawing = len(shown.boxes), progress.drawing + shown.seconds
            progress.seconds = before + time.perf_counter() - started
            progress.step += 1
            step_is_done()


def _step(bench: _Bench, shown: "_Shown") -> Tensor:
    """Learn from one batch; return the losses, (P,)."""
    losses = bench.lesson.study(shown.boxes)
    bench.optimizer.zero_grad()
    bench.lesson.together(losses).backward()
    bench.optimizer.step()
    return losses.detach()


def _close(bench: _Bench, progress: _Progress) -> None:
    """Write down how a period went, and begin the next one."""
    started, settings = time.perf_counter(), bench.settings
    last = (progress.step - 1) / settings.steps
    snr = snr_at(last, settings, bench.course.invention)
    losses = (progress.losses / (progress.step - progress.first)).tolist()
    if not all(map(math.isfinite, losses)):
        raise CryoclassError(
            f"Pre-training failed before step {progress.step}: the loss is no longer a number.",
            "Use a lower --lr.",
        )
    figures = {**dict(zip(bench.lesson.losses, losses, strict=True)), **bench.lesson.score()}
    seconds = progress.seconds + time.perf_counter() - started
    record = Period(
        step=progress.step,
        boxes=progress.boxes * progress.step,
        lr=learning_rate(last, settings.lr),
        snr_low=snr[0],
        snr_high=snr[1],
        figures=figures,
        seconds=seconds,
        drawing=progress.drawing / seconds,
    )
    progress.records.append(record)
    progress.losses.zero_()
    progress.seconds = progress.drawing = 0.0


class _Shown(NamedTuple):
    """What a step shows, from :meth:`Lesson.draw`, and the time in seconds that drawing it took."""

    boxes: Any
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
    """Draw the boxes of a step, seeded by its number."""
    started, settings = time.perf_counter(), bench.settings
    snr = snr_at(step / settings.steps, settings, bench.course.invention)
    seed = int(np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(bench.run.device).manual_seed(seed)
    return _Shown(bench.lesson.draw(snr, generator), time.perf_counter() - started)


def learning_rate(done: float, highest: float) -> float:
    """Return the learning rate after a share ``done`` of the steps: up along a line, then down along a cosine."""
    if done < WARM_UP:
        return highest * (0.01 + 0.99 * done / WARM_UP)
    return highest * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


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
    losses = torch.zeros(len(bench.lesson.losses))
    numbers = {"step": int, "losses": losses, "boxes": int, "seconds": float, "drawing": float}
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
        return _Progress(losses=torch.zeros(len(bench.lesson.losses), device=bench.run.device))
    state, name = found
    for part, module in bench.lesson.learns.items():
        module.load_state_dict(state[part])
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
    learnt = sum(value.nbytes for part in bench.weights.values() for value in part.values())
    written = sum(value.nbytes for value in bench.lesson.network.state_dict().values())
    return 0 if folder is None else space(COPIES * learnt, folder) + written


def _settings(bench: _Bench) -> dict[str, str]:
    """Return what must be the same for a run to go on, in words."""
    course = bench.course
    facts = {**course.settings.to_dict(), **course.invention.to_dict(), **course.run.facts}
    return {
        **{name: str(value) for name, value in facts.items()},
        "weights": str(sum(weight.numel() for weight in bench.lesson.network.parameters())),
        "yardsticks": str(asdict(course.run.yardsticks)),
        **bench.lesson.facts,
    }
