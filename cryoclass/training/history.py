"""What a training did, line by line: epochs of a whole network, or freedoms of a head that was fitted alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cryoclass.training.trust import NO_TRUST, Trust

GRADE = "grade"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of the history; ``best`` says whether it is the best one so far.

    ``epoch`` counts from 1; 0 is the head fitted alone, in recipes that do so first.

    ``val_auc`` is the macro one-against-rest area; None where validation holds one class only, and so is ``val_accuracy`` where
    no classes are told. ``figures`` are those of each task, where there are others than to tell classes: mean loss in training and
    its weight, figures of the validation particles, and the ``grade`` by which epochs are compared. ``seconds`` plays no part in
    comparisons: two runs that did the same may take longer or shorter.
    """

    kind: ClassVar[str] = "epoch"

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_accuracy: float | None
    val_auc: float | None
    best: bool
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = field(compare=False)

    @property
    def at(self) -> float:
        """Where on the history's axis it lies."""
        return self.epoch

    @property
    def rank(self) -> tuple[float, ...]:
        """What orders epochs: the mean grade of the tasks, then the lower loss."""
        return (self.figures.get(GRADE, _grade(self)), -self.val_loss)


@dataclass(frozen=True, kw_only=True)
class HeadRecord:
    """One fit of a head alone; as :class:`EpochRecord`, with ``freedom`` in the place of epoch and learning rate.

    Where nothing was held out, cross-validation gives the ``val_`` figures; None where no class has two particles.

    ``freedom`` is how far the head may follow the training particles: C of logistic regression, the inverse of the
    strength of its prior.
    """

    kind: ClassVar[str] = "freedom"

    figures: ClassVar[dict[str, float]] = {}

    freedom: float
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    val_auc: float | None
    best: bool
    seconds: float = field(compare=False)

    @property
    def at(self) -> float:
        """Where on the history's axis it lies."""
        return self.freedom

    @property
    def rank(self) -> tuple[float, ...]:
        """What orders freedoms: the AUC (accuracy where there is none), then the lower loss."""
        return (_grade(self), 0.0 if self.val_loss is None else -self.val_loss)


Record = EpochRecord | HeadRecord
Hear = Callable[[Record], None]


def _grade(record: Record) -> float:
    """Return the AUC of the validation particles, or the accuracy where there is none."""
    grade = record.val_accuracy if record.val_auc is None else record.val_auc
    return 0.0 if grade is None else grade


@dataclass(frozen=True, kw_only=True)
class History:
    """What training did.

    Parameters
    ----------
    records
        One per epoch, or per freedom that was tried.
    skipped
        Why a row could not be read, for each such row.
    rows, said
        Validation and test rows (m,) in rising order, and what the best weights say of them: (m, ...) by name, what each task
        keeps for its scores.
    trust
        What makes probabilities mean what they say.
    """

    records: tuple[Record, ...]
    skipped: dict[int, str]
    rows: NDArray[np.int64]
    said: Mapping[str, NDArray[np.float32]]
    trust: Trust = NO_TRUST

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """What the best weights say of the classes of those rows (m, K)."""
        return self.said["probabilities"]

    @property
    def best(self) -> Record:
        """The record whose weights the classifier has now."""
        return next(record for record in reversed(self.records) if record.best)
