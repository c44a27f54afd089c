"""What pre-training asks of a network: what the species in a box is like, and which boxes show the same one."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, PROJECTED = 256, 128


class Losses(NamedTuple):
    """Both parts of the loss, each a mean over the batch; 0 for a part that is not asked for."""

    describe: Tensor
    contrast: Tensor


class Tasks(nn.Module):
    """The two heads, thrown away after pre-training.

    Parameters
    ----------
    width
        Length of the backbone's vector.
    mean, std
        Of a description over many species (F,): it is learnt in units of its spread.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.say = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(mean)))
        self.project = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PROJECTED))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(1e-3))

    def forward(
        self, vectors: Tensor, species: Tensor, description: Tensor, temperature: float | None
    ) -> Losses:
        """Return the losses of a batch.

        Parameters
        ----------
        vectors
            What the backbone says of each box, (N, width).
        species
            Number of the species in each box, (N,).
        description
            Of the species in each box (N, F); rows of NaN where nobody knows it.
        temperature
            Of the contrastive loss, for which each species must occur at least twice; None to do without.
        """
        nothing = vectors.new_zeros(())
        known = ~description.isnan().any(1)
        wanted = (description[known] - self.mean) / self.std
        return Losses(
            # Not the square: a hundredth of the species, those far out, would make a sixth of it.
            describe=F.smooth_l1_loss(self.say(vectors[known]), wanted) if known.any() else nothing,
            contrast=nothing
            if temperature is None
            else contrastive_loss(self.project(vectors), species, temperature),
        )


def contrastive_loss(vectors: Tensor, species: Tensor, temperature: float) -> Tensor:
    """Return how badly boxes of one species are told from all others: NT-Xent for two or more views.

    Each box asks which other boxes of the batch show its species, by the cosine of their vectors (Chen et al. 2020,
    arXiv:2002.05709; for several views as Khosla et al. 2020, arXiv:2004.11362).

    Parameters
    ----------
    vectors
        (N, P).
    species
        (N,); each number occurs at least twice.
    temperature
        Divides the cosine.
    """
    unit = F.normalize(vectors.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    likeness = (unit @ unit.mT / temperature).masked_fill(itself, -torch.inf)
    same = (species[:, None] == species) & ~itself
    logs = likeness.log_softmax(1).masked_fill(~same, 0.0)
    return -(logs.sum(1) / same.sum(1)).mean()
