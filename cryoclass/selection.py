"""Which particles to keep of a class, by the error that is accepted; from calibrated probabilities alone.

Where probabilities mean what they say, the mean over kept particles is the share of them that truly are of the class, and the sum is how many
there are. That holds for a list whose mix is like that of the labelled particles, and without species that nobody has labelled.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoclass.metrics import NORMAL

Floats = NDArray[np.floating]
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Particles by the probability of one class, the most probable first.

    Attributes
    ----------
    rows
        Row numbers (n,).
    probabilities
        Of the class (n,), falling.
    total
        How many true ones are expected in the whole list, those of which another class is more probable among them.
    """

    rows: Rows
    probabilities: Floats
    total: float

    @property
    def precision(self) -> Floats:
        """Expected share of true ones among each particle and those before it, (n,); falling."""
        return np.asarray(self._hits / np.arange(1, len(self.rows) + 1))

    @property
    def recall(self) -> Floats:
        """Expected share of the true ones of the whole list that are among those, (n,); rising."""
        return np.asarray(self._hits / max(self.total, 1e-12))

    @property
    def spread(self) -> Floats:
        """Half of the 95 % interval of the precision, (n,): as many true ones as chance gives, by the probabilities (Poisson binomial)."""
        variance = np.cumsum(self.probabilities * (1 - self.probabilities), dtype=np.float64)
        return np.asarray(NORMAL * np.sqrt(variance) / np.arange(1, len(self.rows) + 1))

    @property
    def _hits(self) -> Floats:
        return np.cumsum(self.probabilities, dtype=np.float64)

    def at(self, kept: int) -> "Promise":
        """Say what is expected of the first ``kept`` particles, at least one."""
        precision, half, last = float(self.precision[kept - 1]), float(self.spread[kept - 1]), kept - 1
        return Promise(
            kept=kept,
            threshold=float(self.probabilities[last]),
            precision=precision,
            low=max(0.0, precision - half),
            high=min(1.0, precision + half),
            recall=float(self.recall[last]),
            false=kept * (1 - precision),
        )


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is expected of the most probable particles of a class.

    Attributes
    ----------
    kept
        How many they are.
    threshold
        Probability of the last of them.
    precision, low, high
        Expected share of true ones, and its 95 % interval.
    recall
        Expected share of all true ones.
    false
        Expected number of others.
    """

    kept: int
    threshold: float
    precision: float
    low: float
    high: float
    recall: float
    false: float

    @property
    def in_words(self) -> dict[str, str]:
        """The figures, for people."""
        return {
            "kept": str(self.kept),
            "probability": f"{self.threshold:.3f} or more",
            "expected precision": f"{self.precision:.3f} ({self.low:.3f} to {self.high:.3f})",
            "expected recall": f"{self.recall:.3f}",
            "expected false": f"{self.false:.1f}",
        }


def ranked(probabilities: Floats, number: int, eligible: NDArray[np.bool_]) -> Ranking:
    """Return those particles of which a class is the most probable one, the most probable first; equals in the order of the table.

    Parameters
    ----------
    probabilities
        Of all classes (n, K).
    number
        The class, from 0.
    eligible
        Which particles count (n,).
    """
    own = probabilities[:, number]
    rows = np.flatnonzero(eligible & (probabilities.argmax(1) == number))
    order = rows[np.argsort(-own[rows], kind="stable")]
    return Ranking(rows=order, probabilities=own[order], total=float(own[eligible].sum(dtype=np.float64)))


THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def promises(ranking: Ranking) -> list[Promise]:
    """Return what is expected at each of the usual thresholds of the probability at which anything is kept."""
    counts = [int((ranking.probabilities >= least).sum()) for least in THRESHOLDS]
    return [ranking.at(kept) for kept in dict.fromkeys(counts) if kept]


def kept_by_precision(ranking: Ranking, least: float) -> int:
    """Return how many particles can be kept with an expected precision of at least ``least``."""
    return int((ranking.precision >= least - 1e-12).sum())  # it falls


def kept_by_recall(ranking: Ranking, least: float) -> int:
    """Return how few particles hold a share of at least ``least`` of the expected true ones; 0 where all together do not."""
    short = int((ranking.recall < least - 1e-12).sum())
    return short + 1 if short < len(ranking.rows) else 0


def kept_by_probability(ranking: Ranking, least: float) -> int:
    """Return how many particles are at least so probable."""
    return int((ranking.probabilities >= least).sum())
