"""Numbers behind the figures that are no scores: ROC curves, and which particles to look at."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import auc, roc_curve

from cryoclass.metrics import score_in_words
from cryoclass.report.content import Array, Integers, Scored


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """One class against the rest; ``auc`` is NaN and the curve empty where only one side has particles.

    ``support`` counts the particles of the class; of a mean, those of the smallest class.
    """

    false_positive: Array
    true_positive: Array
    auc: float
    support: int

    @property
    def auc_in_words(self) -> str:
        """The area, as well as so few particles say it."""
        return score_in_words(self.auc, self.support)


def one_vs_rest(scored: Scored) -> list[Roc]:
    """Return the ROC curve of each class."""
    return [
        _roc(scored.labels == index, scored.probabilities[:, index]) for index in range(len(scored.classes))
    ]


def _roc(positive: np.ndarray, score: Array) -> Roc:
    if positive.all() or not positive.any():
        return _no_curve(int(positive.sum()))
    false_positive, true_positive, _ = roc_curve(positive, score)
    return Roc(
        false_positive=false_positive,
        true_positive=true_positive,
        auc=float(auc(false_positive, true_positive)),
        support=int(positive.sum()),
    )


def _no_curve(support: int) -> Roc:
    return Roc(false_positive=np.empty(0), true_positive=np.empty(0), auc=float("nan"), support=support)


def macro(curves: list[Roc]) -> Roc:
    """Average the curves that exist, at 201 false-positive rates; the AUC is the mean of theirs."""
    present = [curve for curve in curves if len(curve.false_positive)]
    if not present:
        return _no_curve(0)
    at = np.linspace(0, 1, 201)
    heights = [np.interp(at, curve.false_positive, curve.true_positive) for curve in present]
    mean = np.mean(heights, axis=0)
    # Curves start with a vertical step, which interpolation leaves out.
    return Roc(
        false_positive=np.concatenate([[0.0], at]),
        true_positive=np.concatenate([[0.0], mean]),
        auc=float(np.mean([curve.auc for curve in present])),
        support=min(curve.support for curve in present),
    )


def worst_mistakes(scored: Scored, count: int = 12) -> Integers:
    """Return the indices of the most confident wrong predictions, most confident first."""
    confidence = scored.probabilities.max(axis=1, initial=0.0)
    wrong = np.flatnonzero((scored.labels >= 0) & (scored.probabilities.argmax(axis=1) != scored.labels))
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count]


def surest_and_least(
    probabilities: Array, assigned: Integers, count: int = 6
) -> list[tuple[Integers, Integers]]:
    """Return, for each class, the indices of its most and its least confident particles, without overlap."""
    confidence = probabilities.max(axis=1, initial=0.0)
    picks: list[tuple[Integers, Integers]] = []
    for index in range(probabilities.shape[1]):
        members = np.flatnonzero(assigned == index)
        order = members[np.argsort(-confidence[members], kind="stable")]
        most = order[:count]
        least = order[len(most) :][::-1][:count]
        picks.append((most, least))
    return picks
