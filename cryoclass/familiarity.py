"""How unlike everything learnt a particle is: its distance from the nearest class in the embedding, in units of what is usual.

A network is often surest of what it has never seen, so its probabilities cannot tell. The distance is that of Mahalanobis (Lee et al.
2018, arXiv:1807.03888), with the covariance within classes shrunk half-way to a sphere, since few labels say little of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.embedding import Vectors

UNKNOWN_SCORE = "unknown_score"  # the output: above 1, unlike what was learnt
SPHERE = 0.5  # of the covariance; between 0.2 and 0.8 hardly anything changes
KNOWN = 0.95  # share of particles of known classes that lie below 1
DIRECTIONS = 256  # of the covariance that are told apart, at most
FOLDS = 5
ENOUGH = 39  # held-out particles, from which their own order says below what KNOWN of them lie
LEAST = 3  # held-out particles, below which nobody can say what is usual

Matrix = NDArray[np.float64]
Integers = NDArray[np.integer]


class Familiarity(nn.Module):
    """Turns embeddings into unknown scores.

    Parameters
    ----------
    classes, width, directions
        How many classes K, numbers of an embedding E, and directions R that are told apart from the others.

    Attributes
    ----------
    means, basis
        Of the classes (K, E); orthonormal directions (R, E) in which particles of a class differ.
    discount
        By how much a square along each direction counts less than elsewhere, (R,), from 0 to 1.
    level
        What all squares are multiplied by, so that the score of a usual particle stays below 1.
    """

    means: Tensor
    basis: Tensor
    discount: Tensor
    level: Tensor

    def __init__(self, classes: int, width: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("basis", torch.zeros(directions, width))
        self.register_buffer("discount", torch.zeros(directions))
        self.register_buffer("level", torch.ones(()))

    def forward(self, embedding: Tensor) -> Tensor:
        """Turn embeddings (N, E) into scores (N,), float32."""
        # In double precision, which autocast leaves alone: a product in bfloat16 would be too coarse for the difference below.
        means, basis, discount, level = (
            part.double() for part in (self.means, self.basis, self.discount, self.level)
        )
        away = embedding.double()[:, None] - means  # (N, K, E)
        along = away @ basis.T  # (N, K, R)
        squares = away.square().sum(2) - (along.square() * discount).sum(2)
        nearest: Tensor = (squares.clamp_min(0).amin(1) * level).sqrt().float()
        return nearest


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Embeddings (n, E) of particles whose classes are known, (n,) from 0, and which of them the network has not learnt from, (n,).

    ``natural_units`` says that particles of one species differ by 1 along every direction, whatever the species.
    """

    embedding: Vectors
    targets: Integers
    held_out: NDArray[np.bool_]
    natural_units: bool

    @property
    def taught(self) -> tuple[Vectors, Integers]:
        """Embeddings and classes of those that it has learnt from."""
        return self.embedding[~self.held_out], self.targets[~self.held_out]


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What says how far particles of known classes lie: how many held-out ones, and whether the network had learnt from those."""

    count: int
    crossed: bool


def fit_familiarity(learnt: Learnt, *, frozen: bool) -> tuple[Familiarity, Usual] | None:
    """Return what tells how unlike everything learnt a particle is; None where too few particles are known.

    Parameters
    ----------
    learnt
        The particles.
    frozen
        Whether the embedding is what it was before the labels came: then particles that were learnt from can say, left out in turn,
        how far others of their class lie. Else those that were held out say it alone, where there are enough.
    """
    embedding, targets = learnt.taught
    model = _fitted(embedding, targets, learnt.natural_units)
    if model is None:
        return None
    distances = _distances(model, learnt.embedding[learnt.held_out])
    crossed = frozen or len(distances) < LEAST
    if crossed:
        distances = np.concatenate([distances, *_left_out_in_turn(learnt)])
    if len(distances) < LEAST:
        return None
    with torch.no_grad():
        model.level.div_(_limit(distances) ** 2)
    return model, Usual(count=len(distances), crossed=crossed)


def _fitted(embedding: Vectors, targets: Integers, natural_units: bool) -> Familiarity | None:
    """Return distances in units of the spread within classes; None where nothing says how wide that is."""
    classes, width = np.unique(targets), embedding.shape[1]
    means = np.stack([embedding[targets == name].mean(0, dtype=np.float64) for name in classes])
    within = embedding - means[np.searchsorted(classes, targets)]
    freedom = len(embedding) - len(classes)
    if not freedom and not natural_units:
        return None
    variances, basis = _principal(within, max(freedom, 1))
    sphere = 1.0 if natural_units else variances.sum() / width
    if not sphere > 0:
        return None
    model = Familiarity(len(classes), width, len(basis))
    along = (1 - SPHERE) * variances
    with torch.no_grad():
        model.means.copy_(torch.from_numpy(means))
        model.basis.copy_(torch.from_numpy(basis))
        model.discount.copy_(torch.from_numpy(along / (along + SPHERE * sphere)))
        model.level.fill_(1 / (SPHERE * sphere))
    return model


def _principal(within: Matrix, freedom: int) -> tuple[Matrix, Matrix]:
    """Return variances (R,) and directions (R, E) of differences from class means, the largest first."""
    _, singular, basis = np.linalg.svd(within, full_matrices=False)
    kept = min(DIRECTIONS, int((singular > 1e-6 * max(singular.max(), 1e-12)).sum()), freedom)
    return singular[:kept] ** 2 / freedom, basis[:kept]


def _left_out_in_turn(learnt: Learnt) -> list[NDArray[np.float64]]:
    """Return how far particles lie from the classes of the others, each left out once; those that are alone in their class not at all."""
    from sklearn.model_selection import StratifiedKFold

    embedding, targets = learnt.taught
    counts = np.bincount(targets)
    several = np.flatnonzero(counts[targets] > 1)
    if not len(several):
        return []
    folds = StratifiedKFold(min(FOLDS, int(counts[targets[several]].min())), shuffle=True, random_state=0)
    found = []
    for _, left_out in folds.split(several, targets[several]):
        rest = np.delete(np.arange(len(targets)), several[left_out])
        model = _fitted(embedding[rest], targets[rest], learnt.natural_units)
        if model is not None:
            found.append(_distances(model, embedding[several[left_out]]))
    return found


@torch.no_grad()
def _distances(model: Familiarity, embedding: Vectors) -> NDArray[np.float64]:
    return np.asarray(model(torch.from_numpy(np.ascontiguousarray(embedding, np.float32))), np.float64)


def _limit(distances: NDArray[np.float64]) -> float:
    """Return below what the next particle of a known class lies with a chance of ``KNOWN``.

    Of enough particles their order says it (conformal prediction); of few, a limit for normal logarithms, wider the fewer they are.
    """
    from scipy.stats import t

    count = len(distances)
    if count >= ENOUGH:
        return float(np.sort(distances)[int(np.ceil((count + 1) * KNOWN)) - 1])
    logs = np.log(np.maximum(distances, 1e-12))
    return float(np.exp(logs.mean() + t.ppf(KNOWN, count - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / count)))
