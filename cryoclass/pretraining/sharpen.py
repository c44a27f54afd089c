"""The last step of pre-training: let count what differs between species, and not what differs between views of one.

Linear discriminant analysis on invented species. In the new units the spread within a species is 1 along every direction,
and each direction is then weighted by the share of the spread that is between species, as far as it can be known from one
box (Ioffe 2006, doi:10.1007/11744085_41). With one label a species this gains far more than with twenty.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.backbones.res32 import Res32
from cryoclass.preparation import Preparer
from cryoclass.pretraining.batches import draw_batch
from cryoclass.settings import Invention, Yardsticks

VIEWS = 4  # of each species
CHUNK = 64  # boxes
SEED = 2**32 - 3  # as for the held-out species: never met in training
FLOOR = 0.01  # of the mean variance, added to every direction, so that none is blown up

Matrix = NDArray[np.float64]


def sharpen(
    backbone: Res32,
    preparer: Preparer,
    invention: Invention,
    yardsticks: Yardsticks,
    device: torch.device,
    steps: int,
) -> None:
    """Set ``centre`` and ``sharpen`` of a backbone from what it says of new species, at the SNR range of ``invention``.

    This is what brings its embedding to natural units.
    With more species the discriminants are truer; a backbone that has learnt for few ``steps`` is worth fewer of them.
    """
    backbone.centre.zero_()
    backbone.sharpen.copy_(torch.eye(backbone.width))
    least, most = yardsticks.sharpening_batches
    batches = [yardsticks.sharpening_species] * min(most, max(least, steps // 100))
    vectors = _vectors(backbone, preparer, invention, device, batches)
    backbone.centre.copy_(torch.from_numpy(vectors.mean((0, 1))))
    backbone.sharpen.copy_(torch.from_numpy(discriminants(vectors)))
    backbone.facts = backbone.facts.replace(natural_units=True)


def discriminants(vectors: Matrix) -> Matrix:
    """Return the matrix (E, E) that turns centred vectors into discriminants, the weightiest first.

    Parameters
    ----------
    vectors
        (S, V, E): V views of each of S species.
    """
    species, views, width = vectors.shape
    means = vectors.mean(1)
    apart = (vectors - means[:, None]).reshape(-1, width)
    within = apart.T @ apart / (species * (views - 1))
    between = np.cov(means.T) - within / views
    within += FLOOR * np.trace(within) / width * np.eye(width)
    variance, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(variance)  # (E, E): vectors @ whiten has spread 1 within a species
    ratio, turn = np.linalg.eigh(whiten.T @ between @ whiten)
    ratio = ratio.clip(0)
    weighted = whiten @ turn * np.sqrt(ratio / (ratio + 1))
    return np.ascontiguousarray(weighted[:, ::-1].T)


@torch.no_grad()
def _vectors(
    backbone: Res32, preparer: Preparer, invention: Invention, device: torch.device, batches: list[int]
) -> Matrix:
    backbone.eval()
    generator = torch.Generator(device).manual_seed(SEED)
    found: list[Tensor] = []
    for species in batches:
        raw = draw_batch(species, VIEWS, invention.snr, invention, generator).boxes
        vectors = [backbone(preparer(boxes)) for boxes in raw.flatten(0, 1).split(CHUNK)]
        found.append(torch.cat(vectors).unflatten(0, (species, VIEWS)))
    return torch.cat(found).double().cpu().numpy()
