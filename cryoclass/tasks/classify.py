"""The task of telling classes: a linear head on the vector, softmax, cross-entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.card import CLASSES, PARTICLES, Axes
from cryoclass.metrics import Metrics, evaluate
from cryoclass.settings import Recipe
from cryoclass.tasks.task import Arrays, Features, Said, Task, Truth

if TYPE_CHECKING:
    from cryoclass.results import Told

UNKNOWN = -1  # in the place of a class number


class Classify(Task):
    """Which class a particle has: ``probabilities`` and ``logits``, (N, K)."""

    name = "classify"
    truth: ClassVar[Truth] = "class"
    outputs: ClassVar[Mapping[str, Axes]] = {
        "probabilities": (PARTICLES, CLASSES),
        "logits": (PARTICLES, CLASSES),
    }

    follows = frozenset({"probabilities"})

    def make_head(self, width: int, classes: int, fold: int = 1) -> nn.Linear:  # noqa: ARG002
        """Return a linear layer from the vector to one number a class."""
        return nn.Linear(width, classes)

    def say(self, head: nn.Module, features: Features) -> Said:
        """Return the logits (N, K)."""
        return {"logits": head(features.vector)}

    def finish(self, said: Said) -> Said:
        """Return probabilities and logits, softmax computed in float32."""
        logits = said["logits"].float()
        return {"probabilities": torch.softmax(logits, dim=1), "logits": logits}

    def loss(self, said: Said, truth: Tensor, recipe: Recipe) -> Tensor:
        """Return the cross-entropy, labels smoothed as the recipe says."""
        total = F.cross_entropy(
            said["logits"].float(),
            truth,
            ignore_index=UNKNOWN,
            reduction="sum",
            label_smoothing=recipe.label_smoothing,
        )
        return total / (truth != UNKNOWN).sum().clamp(min=1)

    def judge(self, outputs: Said, truth: Tensor) -> Said:  # noqa: ARG002 - the labels come again with score
        """Return the outputs as they are."""
        return {name: outputs[name] for name in self.outputs}

    def score(self, judged: Arrays, labels: NDArray[np.integer], classes: Sequence[str]) -> Metrics | None:
        """Hold probabilities against the true class numbers."""
        known = labels != UNKNOWN
        return evaluate(judged["probabilities"][known], labels[known], classes) if known.any() else None

    def grade(self, scores: Metrics) -> float:
        """Return the AUC, or the accuracy where there is none."""
        return scores.accuracy if scores.auc is None else scores.auc

    def cost(self, scores: Metrics) -> float:
        """Return the mean negative logarithm of the probability of the true class."""
        return scores.log_loss

    def columns(self, told: "Told") -> dict[str, list[str]]:
        """Return class number, highest probability, class name and one probability a class."""
        from cryoclass.results import prediction_columns  # which knows tables, as networks do not

        return prediction_columns(told.decided, told.classes)

    def write_files(self, folder: Path, told: "Told") -> None:
        """Write ``classes.star``, number, name and count of each class, and ``thresholds.csv``, what is expected above each."""
        from cryoclass.results import write_classes, write_thresholds

        write_thresholds(folder / "thresholds.csv", told.decided, told.classes)
        write_classes(folder / "classes.star", told.decided.classes, told.classes)

    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of a probability."""
        return float(np.abs(found["probabilities"] - expected["probabilities"]).max())

    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:
        """Say whether the class that ``expected`` prefers is, within ``tie``, the best in ``found`` too."""
        best = expected["probabilities"].argmax(axis=1)[:, None]
        chosen = np.take_along_axis(found["probabilities"], best, axis=1)[:, 0]
        return bool((chosen >= found["probabilities"].max(axis=1) - tie).all())


CLASSIFY = Classify()
