"""What tasks that speak of each voxel have in common: one convolution as head, and scores that are means over particles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.metrics import NORMAL
from cryoclass.tasks.task import Arrays

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


def voxel_scores(judged: Arrays, names: tuple[str, ...]) -> VoxelScores | None:
    """Return the means of figures (n,) over the particles that have them; None where none has."""
    known = np.isfinite(judged[names[0]])
    if not known.any():
        return None
    return VoxelScores(count=int(known.sum()), figures={name: Mean.of(judged[name][known]) for name in names})


def voxel_head(width: int, first: float = 0.0) -> nn.Conv3d:
    """Return a head that says one number of each voxel, at first ``first`` of all."""
    head = nn.Conv3d(width, 1, 1)
    with torch.no_grad():
        for weight, value in zip(head.parameters(), (0.0, first), strict=True):
            weight.fill_(value)
    return head


def mean_over_known(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of values where something is known; 0, with a gradient of 0, where nothing is."""
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)


def flat(volumes: Tensor) -> Tensor:
    """Turn volumes (n, D, H, W) into rows (n, D * H * W)."""
    return volumes.flatten(1).float()
