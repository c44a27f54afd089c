"""Pre-training, read from top to bottom: :func:`teach_shape` over periods, :func:`_learn` over steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
from cryoclass.training.checkpoint import load_checkpoint, save_checkpoint
from cryoclass.training.loop import memory_explained

WARM_UP = 0.03  # share of the steps in which the learning rate rises
PERIODS = 40  # the history's lines, and checkpoints
LONGEST = 1000  # steps of a period
KEYS = {"backbone", "tasks", "optimizer", "records"}


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
    seconds: float
    drawing: float


def _nobody(_periods: Sequence[Period]) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class PretrainingRun:
    """Where and with what to pre-train.

    Parameters
    ----------
    device
        The CPU, or a CUDA device.
    folder
        Where ``checkpoint.pt`` is kept; nowhere where None.
    resume
        Go on from the checkpoint in ``folder``, if there is one.
    own
        The user's unlabelled particles; a quarter of the species of each step are theirs then.
    facts
        What else must be the same for the run to be resumed.
    yardsticks
        On how many species the run is measured.
    track
        Hears about the progress within a period.
    on_period
        Hears, after each, of all periods so far.
    """

    device: torch.device
    folder: Path | None = None
    resume: bool = False
    own: KeptBoxes | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    yardsticks: Yardsticks = Yardsticks()
    track: Track = silent
    on_period: Callable[[Sequence[Period]], None] = _nobody


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


def teach_shape(
    backbone: Backbone,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    run: PretrainingRun,
) -> Pretrained:
    """Teach a backbone, in place, what species are like, and which boxes show the same one.

    In the end it knows what it has learnt from (:attr:`cryoclass.backbones.spec.Backbone.facts`).
    Every step is seeded on its own, by ``settings.seed`` and its number, so a resumed run gives what an unbroken one
    gives, to the bit on a CPU with the same number of threads.

    Raises
    ------
    CryoclassError
        The loss is no longer a number, or the GPU has too little memory.
    ModelError, UsageError
        The checkpoint to resume from is damaged, or belongs to another run; or boxes do not suit each other or the species.
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
    records = _resumed(bench)
    shown = held_out(invention, run.yardsticks).to(run.device)
    done = records[-1].step if records else 0
    while done < settings.steps:
        steps = range(done, min(done + period_of(settings), settings.steps))
        record = _learn(bench, steps, retrieval_on=lambda: retrieval(backbone, bench.preparer, shown))
        if not math.isfinite(record.contrast + record.describe):
            raise CryoclassError(
                f"Pre-training failed before step {record.step}: the loss is no longer a number.",
                "Use a lower --lr.",
            )
        records.append(record)
        done = record.step
        _save(bench, records)
        run.on_period(records)
    backbone.facts = WeightFacts(learnt_from=_learnt_from(preparation, invention, run.own))
    if isinstance(backbone, Res32):
        sharpen(backbone, bench.preparer, invention, run.yardsticks, run.device, settings.steps)
    score = retrieval(backbone, bench.preparer, shown)
    return Pretrained(periods=tuple(records), retrieval=score, yardsticks=run.yardsticks)


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


def _learn(bench: _Bench, steps: range, retrieval_on: Callable[[], float]) -> Period:
    """Take some steps and say how it went."""
    settings, run = bench.settings, bench.run
    started, drawing = time.perf_counter(), 0.0
    total = torch.zeros(2, device=run.device)
    bench.backbone.train()
    rate, boxes = settings.lr, 0
    stream = run.track(_ahead(bench, steps), f"Step {steps[-1] + 1}/{settings.steps}", len(steps))
    for step, shown in zip(steps, stream, strict=True):
        rate = learning_rate(step / settings.steps, settings.lr)
        bench.optimizer.param_groups[0]["lr"] = rate
        total += _step(bench, shown)
        boxes, drawing = len(shown.x), drawing + shown.seconds
    snr = snr_at(steps[-1] / settings.steps, settings, bench.invention)
    describe, contrast = (total / len(steps)).tolist()
    score = retrieval_on()
    seconds = time.perf_counter() - started
    return Period(
        step=steps[-1] + 1,
        boxes=boxes * (steps[-1] + 1),
        lr=rate,
        snr_low=snr[0],
        snr_high=snr[1],
        describe=describe,
        contrast=contrast,
        retrieval=score,
        seconds=seconds,
        drawing=drawing / seconds,
    )


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
    with memory_explained("--batch-species"):
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
    with memory_explained("--batch-species"):
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


def _save(bench: _Bench, records: list[Period]) -> None:
    if bench.run.folder is not None:
        state = {
            "backbone": bench.backbone.state_dict(),
            "tasks": bench.tasks.state_dict(),
            "optimizer": bench.optimizer.state_dict(),
            "records": [asdict(record) for record in records],
        }
        save_checkpoint(bench.run.folder, state, _settings(bench))


def _resumed(bench: _Bench) -> list[Period]:
    """Bring everything to where the checkpoint left off; a new start where there is none."""
    run = bench.run
    if not run.resume or run.folder is None:
        return []
    state = load_checkpoint(run.folder, KEYS, _settings(bench))
    if state is None:
        return []
    bench.backbone.load_state_dict(state["backbone"])
    bench.tasks.load_state_dict(state["tasks"])
    bench.optimizer.load_state_dict(state["optimizer"])
    return [Period(**record) for record in state["records"]]


def _settings(bench: _Bench) -> dict[str, str]:
    """Return what must be the same for a run to be resumed, in words."""
    own = bench.run.own
    facts = {**bench.settings.to_dict(), **bench.invention.to_dict(), **bench.run.facts}
    return {
        **{name: str(value) for name, value in facts.items()},
        **{name: str(value) for name, value in bench.preparer.settings.to_dict().items()},
        "weights": str(sum(weight.numel() for weight in bench.backbone.parameters())),
        "yardsticks": str(asdict(bench.run.yardsticks)),
        "own particles": "none" if own is None else str(len(own.rows)),
    }
