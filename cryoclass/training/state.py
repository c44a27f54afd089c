"""How far a fine-tuning has come: all that changes while it works, what is saved of that, and how it goes on from there."""

import math
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.classifier import Classifier
from cryoclass.settings import Recipe
from cryoclass.training.balance import Balance
from cryoclass.training.checkpoint import (
    State,
    check_generator,
    check_optimizer,
    check_random_state,
    hold,
    hold_that,
    random_state,
    read_records,
    set_optimizer,
    set_random_state,
)
from cryoclass.training.history import EpochRecord

EMBEDDED = "embedded"  # the one name in a state from before the training


@dataclass(kw_only=True)
class Epoch:
    """An epoch that is under way.

    Attributes
    ----------
    number
        From 0.
    batches
        Places of the particles of each step, shuffled.
    generator
        Draws the augmentation, as it drew the order.
    total
        Sum over the particles seen of the loss of all tasks together, and of each, (1 + T,).
    step
        How many batches have been learnt from.
    """

    number: int
    batches: list[Tensor]
    generator: torch.Generator
    total: Tensor
    step: int = 0
    _before: float = 0.0  # seconds, until a kill
    _started: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, number: int, places: NDArray[np.int64], recipe: Recipe, seed: int) -> "Epoch":
        """Seed torch for one epoch, and shuffle its particles; whatever came before makes no difference."""
        first, second = np.random.SeedSequence([seed, number]).generate_state(2)
        torch.manual_seed(int(first))
        generator = torch.Generator().manual_seed(int(second))
        batches = _batches(places, recipe.batch_size, generator)
        return cls(number=number, batches=batches, generator=generator, total=losses_of(recipe))

    @property
    def seconds(self) -> float:
        """What it has taken so far, the time between a kill and going on left out."""
        return self._before + time.perf_counter() - self._started

    def state(self) -> State:
        """Return what is saved of it, beside what torch's own generators do."""
        return {
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "generator": self.generator.get_state(),
        }

    def go_on(self, saved: State) -> None:
        """Be where a saved one was."""
        self.step, self._before = saved["step"], saved["seconds"]
        self.total = saved["total"].to(self.total.device)
        self.generator.set_state(saved["generator"])


@dataclass(kw_only=True)
class Progress:
    """All that changes while a classifier is trained.

    Attributes
    ----------
    classifier, balance, optimizer
        Change from step to step.
    device
        Where they are.
    records
        Of the epochs that are done.
    best
        Weights of the best of them.
    epoch
        The one under way; None between two.
    embedded
        What the backbone says of the first particles, batch by batch, where it is asked before the first epoch.
    """

    classifier: Classifier
    balance: Balance
    optimizer: torch.optim.Optimizer
    device: torch.device
    records: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch: Epoch | None = None
    embedded: list[Tensor] = field(default_factory=list)
    _saved: State | None = None  # of the epoch under way

    @property
    def best_rank(self) -> tuple[float, ...]:
        """That of the best epoch."""
        return max((record.rank for record in self.records), default=(0.0, -math.inf))

    @property
    def done(self) -> int:
        """How many epochs are done, the head's own one not counted."""
        return self.records[-1].epoch if self.records else 0

    def begin(self, places: NDArray[np.int64], recipe: Recipe, seed: int) -> Epoch:
        """Return the next epoch, or the rest of the one that a kill has ended; torch's own generators are set for it."""
        epoch = Epoch.begin(self.done, places, recipe, seed)
        epoch.total = epoch.total.to(self.device)
        if self._saved is not None:
            epoch.go_on(self._saved)
            set_random_state(self._saved["random"], self.device)
        self.epoch, self._saved = epoch, None
        return epoch

    def state(self) -> State:
        """Return what is saved between two steps."""
        within = {**self.epoch.state(), "random": random_state(self.device)} if self.epoch else None
        return {
            "classifier": dict(self.classifier.state_dict()),
            "balance": dict(self.balance.state_dict()),
            "optimizer": self.optimizer.state_dict()["state"],
            "records": [asdict(record) for record in self.records],
            "best": self.best,
            "epoch": within,
        }

    def go_on(self, state: State) -> None:
        """Be where a saved one was, which :func:`check_state` has let pass."""
        if EMBEDDED in state:
            self.embedded = [state[EMBEDDED]]
            return
        self.classifier.load_state_dict(state["classifier"])
        self.balance.load_state_dict(state["balance"])
        set_optimizer(self.optimizer, state["optimizer"])
        self.records, self.best = read_records(state["records"], EpochRecord), state["best"]
        self._saved = state["epoch"]

    def in_words(self, recipe: Recipe) -> str:
        """Say how far it has come."""
        if self.embedded:
            return f"after {sum(map(len, self.embedded))} embedded particles"
        within = f", within the next one after {self._saved['step']} steps" if self._saved else ""
        return f"after epoch {self.done} of {recipe.epochs}{within}"


def check_state(state: State, progress: Progress, recipe: Recipe, count: int) -> None:
    """Hold what was saved against what can go on from it.

    Parameters
    ----------
    state
        From a checkpoint.
    progress
        At the beginning.
    recipe
        Of the run.
    count
        Training particles.

    Raises
    ------
    Misfit
        It does not fit.
    """
    weights, balance = progress.classifier.state_dict(), progress.balance.state_dict()
    like = {
        "classifier": weights,
        "balance": balance,
        "optimizer": dict,
        "records": list,
        "best": dict,
        "epoch": dict | None,
    }
    hold(state, like)
    check_optimizer(state["optimizer"], progress.optimizer)
    records = read_records(state["records"], EpochRecord)
    first = 0 if recipe.head_first else 1
    in_turn = [record.epoch for record in records] == [*range(first, first + len(records))]
    hold_that(in_turn and len(records) <= recipe.epochs + 1 - first, "the epochs do not follow each other")
    hold_that(bool(records) == any(record.best for record in records), "no epoch is the best one")
    hold(state["best"], weights if records else {}, "best")
    if state["epoch"] is not None:
        hold_that(not records or records[-1].epoch < recipe.epochs, "an epoch is under way, and all are done")
        _check_epoch(state["epoch"], batch_count(count, recipe.batch_size), recipe)


def check_embedded(state: State, width: int, count: int, batch_size: int) -> None:
    """Hold what was saved of an embedding against the number of particles; Misfit where it does not fit."""
    hold(state, {EMBEDDED: Tensor})
    found = state[EMBEDDED]
    fits = found.dtype == torch.float32 and found.ndim == 2 and found.shape[1] == width
    hold_that(fits and 0 < len(found) <= count, "the embedding is that of other particles")
    hold_that(len(found) == count or len(found) % batch_size == 0, "the embedding ends within a batch")


def _check_epoch(found: State, batches: int, recipe: Recipe) -> None:
    like = {"step": int, "total": losses_of(recipe), "seconds": float, "generator": Tensor, "random": dict}
    hold(found, like, "epoch")
    hold_that(0 <= found["step"] <= batches, f"its epoch has {batches} steps, and {found['step']} are done")
    check_generator(found["generator"])
    check_random_state(found["random"])


def losses_of(recipe: Recipe) -> Tensor:
    """Return zeros in the place of the losses of an epoch: of all tasks together, and of each, (1 + T,)."""
    return torch.zeros(1 + len(recipe.tasks))


def _batches(places: NDArray[np.int64], size: int, generator: torch.Generator) -> list[Tensor]:
    """Return shuffled batches; a lone last particle joins the batch before, since BatchNorm needs two."""
    order = torch.from_numpy(places)[torch.randperm(len(places), generator=generator)]
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def batch_count(count: int, size: int) -> int:
    """Return how many batches an epoch of ``count`` particles has."""
    full, rest = divmod(count, size)
    return max(1, full + (rest > 1))
