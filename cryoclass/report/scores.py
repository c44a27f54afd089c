"""Numbers behind the figures: ROC curves, calibration, per-class scores, and which particles to look at."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import auc, confusion_matrix, precision_recall_fscore_support, roc_curve

from cryoclass.report.content import Array, Integers, Scored

BINS = 15  # of the calibration error, as Guo et al. 2017 (arXiv 1706.04599)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """One class against the rest; ``auc`` is NaN and the curve empty where only one side has particles."""

    false_positive: Array
    true_positive: Array
    auc: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How often the network is right when it says how sure it is.

    Parameters
    ----------
    edges
        Limits of the bins (bins + 1,).
    counts
        Particles in each bin (bins,).
    confidence, accuracy
        Mean probability of the predicted class, and share of right ones, in each bin; NaN in an empty one.
    error
        Expected calibration error: the mean of ``abs(accuracy - confidence)``, weighted with ``counts``.
    """

    edges: Array
    counts: Integers
    confidence: Array
    accuracy: Array
    error: float


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Scores of one class; NaN where it has no particles to measure them on."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float
    auc: float


def confusion(scored: Scored) -> Integers:
    """Count particles by true class (rows) and predicted class (columns)."""
    predicted = scored.probabilities.argmax(axis=1)
    counts: Integers = confusion_matrix(scored.labels, predicted, labels=np.arange(len(scored.classes)))
    return counts


def one_vs_rest(scored: Scored) -> list[Roc]:
    """Return the ROC curve of each class."""
    return [
        _roc(scored.labels == index, scored.probabilities[:, index]) for index in range(len(scored.classes))
    ]


def _roc(positive: np.ndarray, score: Array) -> Roc:
    if positive.all() or not positive.any():
        return Roc(false_positive=np.empty(0), true_positive=np.empty(0), auc=float("nan"))
    false_positive, true_positive, _ = roc_curve(positive, score)
    return Roc(
        false_positive=false_positive,
        true_positive=true_positive,
        auc=float(auc(false_positive, true_positive)),
    )


def macro(curves: list[Roc]) -> Roc:
    """Average the curves that exist, at 201 false-positive rates; the AUC is the mean of theirs."""
    present = [curve for curve in curves if len(curve.false_positive)]
    if not present:
        return Roc(false_positive=np.empty(0), true_positive=np.empty(0), auc=float("nan"))
    at = np.linspace(0, 1, 201)
    heights = [np.interp(at, curve.false_positive, curve.true_positive) for curve in present]
    mean = np.mean(heights, axis=0)
    # Curves start with a vertical step, which interpolation leaves out.
    return Roc(
        false_positive=np.concatenate([[0.0], at]),
        true_positive=np.concatenate([[0.0], mean]),
        auc=float(np.mean([curve.auc for curve in present])),
    )


def calibration(scored: Scored, bins: int = BINS) -> Calibration:
    """Compare confidence with accuracy in ``bins`` equal bins (Guo et al. 2017, arXiv 1706.04599)."""
    confidence = scored.probabilities.max(axis=1, initial=0.0)
    right = scored.probabilities.argmax(axis=1) == scored.labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are (low, high]
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, confidence, bins) / counts
        accuracy = np.bincount(place, right, bins) / counts
    gaps = np.where(counts, np.abs(accuracy - mean_confidence), 0.0)
    error = float((gaps * counts).sum() / max(counts.sum(), 1))
    edges = np.linspace(0, 1, bins + 1)
    return Calibration(edges=edges, counts=counts, confidence=mean_confidence, accuracy=accuracy, error=error)


def per_class(scored: Scored, curves: list[Roc]) -> list[ClassScore]:
    """Return precision, recall, F1 and one-vs-rest AUC of each class."""
    ids = np.arange(len(scored.classes))
    predicted = scored.probabilities.argmax(axis=1)
    columns = precision_recall_fscore_support(scored.labels, predicted, labels=ids, zero_division=np.nan)
    return [
        ClassScore(name=name, count=int(n), precision=float(p), recall=float(r), f1=float(f), auc=curve.auc)
        for name, p, r, f, n, curve in zip(scored.classes, *columns, curves, strict=True)
    ]


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
