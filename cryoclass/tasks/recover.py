"""The task of telling what the particle's density looks like without noise, neighbours and missing wedge: squared error."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cryoclass.card import PARTICLES, Axes
from cryoclass.settings import Recipe
from cryoclass.star.tables import DENSITY_COLUMN
from cryoclass.tasks.dense import VoxelTask, flat, mean_over_known
from cryoclass.tasks.task import Arrays, Said, Truth


class Recover(VoxelTask):
    """What the particle alone looks like: ``density``, (N, D, H, W).

    Its units: the background is 0, and the deviation over a box is 1.
    """

    name = "recover"
    truth: ClassVar[Truth] = "density"
    outputs: ClassVar[Mapping[str, Axes]] = {"density": (PARTICLES, "D", "H", "W")}
    column = DENSITY_COLUMN
    figures = ("correlation", "squared_error")

    def finish(self, said: Said) -> Said:
        """Return the density."""
        return {"density": said["density"].float()}

    def loss(self, said: Said, truth: Tensor, recipe: Recipe) -> Tensor:  # noqa: ARG002
        """Return the squared error, a mean over voxels."""
        known = truth.isfinite()
        target = torch.where(known, truth, 0.0)
        return mean_over_known((said["density"].float() - target).square(), known)

    def judge(self, outputs: Said, truth: Tensor) -> Said:
        """Return the Pearson correlation with the true density, and the squared error, (n,); NaN where unknown."""
        error = (flat(outputs["density"]) - flat(truth)).square().mean(1)
        return {"correlation": correlation(outputs["density"], truth), "squared_error": error}

    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of a voxel, as a share of the highest one, so that 1 is all of it."""
        highest = max(1.0, float(np.abs(expected["density"]).max()))
        return float(np.abs(found["density"] - expected["density"]).max()) / highest

    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:  # noqa: ARG002
        """Say yes: nothing is decided by a density."""
        return True


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the Pearson correlation of volumes (n, D, H, W), one by one: (n,); 0 where one of them is flat."""
    a, b = (x - x.mean(1, keepdim=True) for x in (flat(first).double(), flat(second).double()))
    both = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(both == 0, 0.0, (a * b).sum(1) / both).float()


RECOVER = Recover()
