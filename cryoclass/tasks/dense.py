"""What tasks that speak of each voxel have in common: a linear layer as head, and scores that are means over particles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.backbones.decoder import unfolded
from cryoclass.metrics import NORMAL
from cryoclass.tasks.task import Arrays, Features, Said, Task

if TYPE_CHECKING:
    from cryoclass.results import Told

NAMES = {"iou": "IoU", "dice": "Dice"}  # of figures, for people


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a figure over particles, and the limits of its 95 % interval (normal approximation); None for one particle."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Mean":
        """Return the mean of values (n,), n at least 1."""
        mean = float(values.mean())
        if len(values) < 2:
            return cls(mean=mean, low=None, high=None)
        half = NORMAL * float(values.std(ddof=1)) / len(values) ** 0.5
        return cls(mean=mean, low=mean - half, high=mean + half)

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values that JSON can hold."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        limits = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.mean:.3f}{limits}"


@dataclass(frozen=True, kw_only=True)
class VoxelScores:
    """Scores of a task that speaks of voxels.

    Parameters
    ----------
    count
        Particles whose truth is known.
    figures
        Mean over those of each figure, by name.
    """

    count: int
    figures: Mapping[str, Mean]

    @property
    def in_words(self) -> dict[str, str]:
        """Each figure with the 95 % interval of its mean."""
        return {
            NAMES.get(name, name.replace("_", " ")): f"{mean}, {self.count} particles"
            for name, mean in self.figures.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"count": self.count, **{name: mean.to_dict() for name, mean in self.figures.items()}}


class VoxelTask(Task):
    """A task that says one number of each voxel, whatever the class.

    Attributes
    ----------
    column
        Of the user's table, that names the volume of each row.
    figures
        What :meth:`judge` gives of each particle: first the one by which epochs are compared, last the loss.
    first
        What a new head says of every voxel.
    """

    dense = True
    column: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]

    @property
    def output(self) -> str:
        """The name of its only output."""
        return next(iter(self.outputs))

    first: ClassVar[float] = 0.0

    def make_head(self, width: int, classes: int, fold: int = 1) -> nn.Module:  # noqa: ARG002 - the same for all classes
        """Return a linear layer from each place of the map to one number a voxel."""
        return VoxelHead(width, fold, self.first)

    def say(self, head: nn.Module, features: Features) -> Said:
        """Return what the head says of each voxel, (N, D, H, W)."""
        return {self.output: head(features.dense, features.sides)}

    def score(
        self,
        judged: Arrays,
        labels: NDArray[np.integer],  # noqa: ARG002
        classes: Sequence[str],  # noqa: ARG002
    ) -> VoxelScores | None:
        """Return the means over the particles whose truth is known."""
        return voxel_scores(judged, self.figures)

    def grade(self, scores: VoxelScores) -> float:
        """Return the mean of the first figure."""
        return scores.figures[self.figures[0]].mean

    def cost(self, scores: VoxelScores) -> float:
        """Return the mean of the last figure, the loss."""
        return scores.figures[self.figures[-1]].mean

    def columns(self, told: "Told") -> dict[str, list[str]]:
        """Return the file of each row."""
        return {self.column: told.volumes[self.output]}


def voxel_scores(judged: Arrays, names: tuple[str, ...]) -> VoxelScores | None:
    """Return the means of figures (n,) over the particles that have them; None where none has."""
    known = np.isfinite(judged[names[0]])
    if not known.any():
        return None
    return VoxelScores(count=int(known.sum()), figures={name: Mean.of(judged[name][known]) for name in names})


class VoxelHead(nn.Module):
    """Says one number of each voxel: a linear layer, which on a CPU learns twice as fast as the same as a convolution.

    Parameters
    ----------
    width
        Channels of the map.
    fold
        How many voxels along each side one place of it stands for.
    first
        What it says of all voxels before it has learnt.
    """

    def __init__(self, width: int, fold: int, first: float) -> None:
        super().__init__()
        self.fold = fold
        self.voxels = nn.Linear(width, fold**3)
        nn.init.zeros_(self.voxels.weight)
        nn.init.constant_(self.voxels.bias, first)

    def forward(self, dense: Tensor, sides: Sequence[int]) -> Tensor:
        """Turn a map ``(N, width, d, h, w)`` into volumes ``(N, *sides)``."""
        return unfolded(self.voxels(dense.movedim(1, -1)), self.fold, sides)


def mean_over_known(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of values where something is known; 0, with a gradient of 0, where nothing is."""
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)


def flat(volumes: Tensor) -> Tensor:
    """Turn volumes (n, D, H, W) into rows (n, D * H * W)."""
    return volumes.flatten(1).float()
