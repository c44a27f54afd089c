"""The task of telling classes: a linear head on the vector, softmax, cross-entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone
from cryoclass.card import CLASSES, PARTICLES, Axes
from cryoclass.metrics import Metrics, evaluate
from cryoclass.settings import Recipe
from cryoclass.tasks.task import Arrays, Features, Said, Scores, Task

if TYPE_CHECKING:
    from cryoclass.results import Decisions


class Classify(Task):
    """Which class a particle has: ``probabilities`` and ``logits``, (N, K)."""

    name = "classify"
    outputs: ClassVar[Mapping[str, Axes]] = {
        "probabilities": (PARTICLES, CLASSES),
        "logits": (PARTICLES, CLASSES),
    }

    follows = frozenset({"probabilities"})

    def make_head(self, backbone: Backbone, classes: int) -> nn.Linear:
        """Return a linear layer from the vector to one number a class."""
        return nn.Linear(backbone.width, classes)

    def say(self, head: nn.Module, features: Features) -> Said:
        """Return the logits (N, K)."""
        return {"logits": head(features.vector)}

    def finish(self, said: Said) -> Said:
        """Return probabilities and logits, softmax computed in float32."""
        logits = said["logits"].float()
        return {"probabilities": torch.softmax(logits, dim=1), "logits": logits}

    def target(self, labels: NDArray[np.integer]) -> Tensor:
        """Return the class numbers (n,) as a tensor."""
        return torch.from_numpy(labels.astype(np.int64))

    def loss(self, said: Said, target: Tensor, recipe: Recipe) -> Tensor:
        """Return the cross-entropy, labels smoothed as the recipe says."""
        return F.cross_entropy(said["logits"].float(), target, label_smoothing=recipe.label_smoothing)

    def score(self, said: Arrays, labels: NDArray[np.integer], classes: Sequence[str]) -> Metrics:
        """Hold probabilities against the true class numbers."""
        return evaluate(said["probabilities"], labels, classes)

    def rank(self, scores: Scores) -> tuple[float, ...]:
        """Order epochs by AUC (accuracy where there is none), then by lower loss."""
        return (scores.get("auc", scores["accuracy"]), -scores["loss"])

    def columns(self, decisions: "Decisions", classes: Sequence[str]) -> dict[str, list[str]]:
        """Return class number, highest probability, class name and one probability a class."""
        from cryoclass.results import prediction_columns  # which knows tables, as networks do not

        return prediction_columns(decisions, classes)

    def write_files(self, folder: Path, decisions: "Decisions", classes: Sequence[str]) -> None:
        """Write ``classes.star``: number, name and count of each class."""
        from cryoclass.results import write_classes

        write_classes(folder / "classes.star", decisions.classes, classes)

    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of a probability."""
        return float(np.abs(found["probabilities"] - expected["probabilities"]).max())

    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:
        """Say whether the class that ``expected`` prefers is, within ``tie``, the best in ``found`` too."""
        best = expected["probabilities"].argmax(axis=1)[:, None]
        chosen = np.take_along_axis(found["probabilities"], best, axis=1)[:, 0]
        return bool((chosen >= found["probabilities"].max(axis=1) - tie).all())


CLASSIFY = Classify()
