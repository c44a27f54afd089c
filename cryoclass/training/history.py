"""What a training did, line by line: epochs of a whole network, or freedoms of a head that was fitted alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cryoclass.tasks import CLASSIFY


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of the history; ``best`` says whether it is the best one so far.

    ``epoch`` counts from 1; 0 is the head fitted alone, in recipes that do so first.

    ``val_auc`` is the macro one-against-rest area; None where validation holds one class only. ``seconds`` plays no part in
    comparisons: two runs that did the same may take longer or shorter.
    """

    kind: ClassVar[str] = "epoch"

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_auc: float | None
    best: bool
    seconds: float = field(compare=False)

    @property
    def at(self) -> float:
        """Where on the history's axis it lies."""
        return self.epoch


@dataclass(frozen=True, kw_only=True)
class HeadRecord:
    """One fit of a head alone; as :class:`EpochRecord`, with ``freedom`` in the place of epoch and learning rate.

    ``freedom`` is how far the head may follow the training particles: C of logistic regression, the inverse of the
    strength of its prior.
    """

    kind: ClassVar[str] = "freedom"

    freedom: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_auc: float | None
    best: bool
    seconds: float = field(compare=False)

    @property
    def at(self) -> float:
        """Where on the history's axis it lies."""
        return self.freedom


Record = EpochRecord | HeadRecord
Hear = Callable[[Record], None]


def rank(record: Record) -> tuple[float, ...]:
    """Order records as the task of telling classes does, by their validation scores."""
    scores = {"accuracy": record.val_accuracy, "loss": record.val_loss}
    return CLASSIFY.rank(scores if record.val_auc is None else {**scores, "auc": record.val_auc})


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
        Validation and test rows (m,) in rising order, and what the best weights say of them: named outputs (m, ...).
    """

    records: tuple[Record, ...]
    skipped: dict[int, str]
    rows: NDArray[np.int64]
    said: Mapping[str, NDArray[np.float32]]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """What the best weights say of the classes of those rows (m, K)."""
        return self.said["probabilities"]

    @property
    def best(self) -> Record:
        """The record whose weights the classifier has now."""
        return next(record for record in reversed(self.records) if record.best)
