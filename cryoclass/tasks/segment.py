"""The task of telling which voxels belong to the particle, and not to its neighbours: binary cross-entropy on logits."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cryoclass.card import PARTICLES, Axes
from cryoclass.settings import Recipe
from cryoclass.star.tables import MASK_COLUMN
from cryoclass.tasks.dense import VoxelTask, flat, mean_over_known
from cryoclass.tasks.task import Arrays, Said, Truth

BORDER = 0.5  # probability from which a voxel belongs to the particle

PRIOR = -3.0  # logit of 5 %: of a box, a particle fills 1 to 20 %


class Segment(VoxelTask):
    """Which voxels belong to the particle: ``mask``, a probability for each, (N, D, H, W)."""

    name = "segment"
    truth: ClassVar[Truth] = "mask"
    outputs: ClassVar[Mapping[str, Axes]] = {"mask": (PARTICLES, "D", "H", "W")}
    column = MASK_COLUMN
    figures = ("iou", "dice", "voxel_accuracy", "cross_entropy")
    first = PRIOR

    def finish(self, said: Said) -> Said:
        """Return the probabilities."""
        return {"mask": said["mask"].float().sigmoid()}

    def loss(self, said: Said, truth: Tensor, recipe: Recipe) -> Tensor:  # noqa: ARG002
        """Return the binary cross-entropy, a mean over voxels, and what the overlap lacks, a mean over particles."""
        logits, known = said["mask"].float(), truth.isfinite()
        target = torch.where(known, truth, 0.0)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return mean_over_known(entropy, known) + _lacking(logits.sigmoid(), target, known)

    def judge(self, outputs: Said, truth: Tensor) -> Said:
        """Return intersection over union, Dice, share of right voxels and cross-entropy, (n,); NaN where unknown."""
        said, true = flat(outputs["mask"]), flat(truth)
        unknown, found, true = true.isnan().any(1), said >= BORDER, true >= BORDER
        both, either = (found & true).sum(1).float(), (found | true).sum(1).float()
        right = (found == true).float().mean(1)
        together = found.sum(1) + true.sum(1)
        figures = {
            # Nothing said, and nothing there: all is right.
            "iou": torch.where(either > 0, both / either, 1.0),
            "dice": torch.where(together > 0, 2 * both / together, 1.0),
            "voxel_accuracy": right,
            "cross_entropy": F.binary_cross_entropy(said, true.float(), reduction="none").mean(1),
        }
        return {name: torch.where(unknown, torch.nan, value) for name, value in figures.items()}

    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of a probability."""
        return float(np.abs(found["mask"] - expected["mask"]).max())

    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:
        """Say whether the same voxels belong to the particle."""
        inside, expects = found["mask"] >= BORDER, expected["mask"] >= BORDER
        return bool(((inside == expects) | (np.abs(expected["mask"] - BORDER) <= tie)).all())


def _lacking(found: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """Return 1 less the Dice of probabilities (Milletari et al. 2016, arXiv:1606.04797), a mean over the particles that are known.

    Without it a particle that fills 2 % of its box is not found at all for many epochs: to say that nothing is there costs little.
    """
    one = known.flatten(1).all(1)
    found, true = flat(found), flat(true)
    dice = (2 * (found * true).sum(1) + 1) / (found.sum(1) + true.sum(1) + 1)
    return mean_over_known(1 - dice, one)


SEGMENT = Segment()
