"""How good probabilities are, given the true classes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score

BINS = 15  # of the reliability curve, as Guo et al. 2017, arXiv:1706.04599

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class against all others.

    Parameters
    ----------
    precision
        Share of the particles given this class that truly have it; 0 where none was given it, as is usual.
    recall, f1
        Share of the class that was found, and the harmonic mean with precision; 0 where the class has no particles.
    auc
        Area under the ROC curve; None unless there are particles of this class and of others.
    support
        Particles that are truly of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    auc: float | None
    support: int


@dataclass(frozen=True, kw_only=True)
class ReliabilityPoint:
    """The predictions whose confidence lies in (low, high]: how sure they are and how often they are right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores of a set of predictions.

    Parameters
    ----------
    count
        Particles scored.
    accuracy
        Share whose most probable class is the true one.
    balanced_accuracy, macro_f1
        Mean recall and mean F1 over the classes that have particles.
    auc
        Mean one-against-rest area under the ROC curve over the classes that have one (scikit-learn's ``ovr`` macro
        average); with two classes it is the usual area. None where no class has one.
    log_loss
        Mean negative logarithm of the probability of the true class.
    calibration_error
        Expected calibration error: over 15 equally wide bins of the highest probability, the mean of
        abs(accuracy - mean confidence), weighted by the number of particles in the bin.
    reliability
        The bins of ``calibration_error`` that hold particles.
    confusion
        Particles by true class (outer) and predicted class (inner).
    """

    count: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auc: float | None
    log_loss: float
    calibration_error: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[ReliabilityPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return dataclasses.asdict(self)


def evaluate(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> Metrics:
    """Score probabilities (n, K) against true class numbers (n,), n at least 1, with K class names."""
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    scores = tuple(_class_scores(name, k, confusion, probabilities, labels) for k, name in enumerate(classes))
    present = [score for score in scores if score.support]
    areas = [score.auc for score in scores if score.auc is not None]
    points = _reliability(probabilities, labels)
    return Metrics(
        count=len(labels),
        accuracy=float(confusion.trace() / len(labels)),
        balanced_accuracy=float(np.mean([score.recall for score in present])),
        macro_f1=float(np.mean([score.f1 for score in present])),
        auc=float(np.mean(areas)) if areas else None,
        log_loss=_log_loss(probabilities, labels),
        calibration_error=sum(p.count * abs(p.accuracy - p.confidence) for p in points) / len(labels),
        classes=scores,
        confusion=tuple(tuple(int(number) for number in row) for row in confusion),
        reliability=points,
    )


def _class_scores(
    name: str, k: int, confusion: Integers, probabilities: Floats, labels: Integers
) -> ClassScores:
    hits, predicted, support = int(confusion[k, k]), int(confusion[:, k].sum()), int(confusion[k].sum())
    mixed = 0 < support < len(labels)
    return ClassScores(
        name=name,
        precision=hits / predicted if predicted else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (predicted + support) if predicted + support else 0.0,
        auc=float(roc_auc_score(labels == k, probabilities[:, k])) if mixed else None,
        support=support,
    )


def _log_loss(probabilities: Floats, labels: Integers) -> float:
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def _reliability(probabilities: Floats, labels: Integers) -> tuple[ReliabilityPoint, ...]:
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    bins = np.clip(
        np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1
    )  # bin b holds (b / BINS, (b + 1) / BINS]
    return tuple(
        ReliabilityPoint(
            low=float(b / BINS),
            high=float((b + 1) / BINS),
            count=int((bins == b).sum()),
            confidence=float(confidence[bins == b].mean()),
            accuracy=float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    )


def cluster_accuracy(clusters: Integers, labels: Integers) -> float:
    """Return the share of particles that are right when every cluster stands for one class, as well as that can be done.

    Parameters
    ----------
    clusters, labels
        Number of the cluster, and of the true class, of each particle (n,), both from 0. Where there are more clusters than
        classes, or fewer, those left over count as wrong.
    """
    table = np.zeros((clusters.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, labels), 1)
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(matched / len(labels))
