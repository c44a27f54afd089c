"""How good probabilities are, given the true classes."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score

DASH = "-"
BINS = 15  # of the reliability curve, at most, as Guo et al. 2017, arXiv:1706.04599
IN_BIN = 10  # particles of a bin, at least: bins of equal numbers, since most predictions are sure (Nguyen & O'Connor 2015, arXiv:1508.05154)

FEW = 30  # particles, below which a share is said as counts: its 95 % interval is wider than a third
HANDFUL = 20  # particles, below which a class is named as hardly scored: where all are right, the interval starts at 0.83
NORMAL = 1.96  # standard deviations to either side that hold 95 %
SHOWN = 8  # classes that a sentence names
LABELS_MAY_BE_KNOWN = (
    "The model may have learnt from some of these labels; particles that it never saw may score lower."
)

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
    predicted, hits
        Particles that were given this class, and those of them that are truly of it.
    """

    name: str
    precision: float
    recall: float
    f1: float
    auc: float | None
    support: int
    predicted: int
    hits: int

    @property
    def in_words(self) -> dict[str, str]:
        """Precision, recall, F1 and AUC, as well as so few particles say them."""
        return {
            "precision": share_in_words(self.hits, self.predicted),
            "recall": share_in_words(self.hits, self.support),
            "F1": score_in_words(self.f1 if self.support else None, self.support),
            "AUC": score_in_words(self.auc, self.support),
        }


@dataclass(frozen=True, kw_only=True)
class ReliabilityPoint:
    """Predictions whose confidence lies between low and high: how sure they are and how often they are right."""

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
        Expected calibration error: over up to 15 bins of the highest probability, each with as many particles as the others
        and at least 10, the mean of abs(accuracy - mean confidence), weighted by the number of particles in the bin.
    reliability
        The bins of ``calibration_error``, the least sure first.
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

    @property
    def hits(self) -> int:
        """Particles whose most probable class is the true one."""
        return sum(score.hits for score in self.classes)

    @property
    def in_words(self) -> dict[str, str]:
        """The scores that count most, by name, as well as so few particles say them."""
        smallest = min(score.support for score in self.classes if score.support)
        return {
            "accuracy": share_in_words(self.hits, self.count, always_interval=True),
            "balanced accuracy": score_in_words(self.balanced_accuracy, smallest),
            "macro AUC": score_in_words(self.auc, smallest),
            "calibration error": score_in_words(self.calibration_error, self.count),
        }

    @property
    def caveats(self) -> tuple[str, ...]:
        """What whoever reads the scores has to know, as sentences; nothing where they mean what they seem to."""
        said = (self._guessing(), self._few(), self._none())
        return tuple(sentence for sentence in said if sentence)

    @property
    def above_guessing(self) -> bool:
        """Whether the answers have to do with the labels: the balanced accuracy lies above what chance gives them."""
        return self.balanced_accuracy > self.by_chance

    @property
    def by_chance(self) -> float:
        """What balanced accuracy the same answers reach where labels are dealt out at random, in 97.5 of 100 deals.

        From mean and variance over all ways to deal these labels out to these answers (Hoeffding 1951), half a particle of a
        class added, since hits come as whole ones. One and the same answer for everything gets exactly this.
        """
        confusion = np.array(self.confusion)
        given, true = confusion.sum(0)[:, None], confusion.sum(1)  # (K, 1), (K,)
        present = true > 0
        true, number, count = true[present], int(present.sum()), self.count
        worth = (
            np.eye(len(present))[:, present] / true / number
        )  # of answer (K) for label: of a balanced accuracy
        by_answer, by_label = (worth * true).sum(1, keepdims=True) / count, (worth * given).sum(0) / count
        mean = float((by_label * true).sum()) / count
        spread = given * true * (worth - by_answer - by_label + mean) ** 2
        deviation = math.sqrt(float(spread.sum()) / max(count - 1, 1))
        step = float((1 / true).mean()) / number / 2 if deviation else 0.0
        return count * mean + NORMAL * deviation + step

    def _guessing(self) -> str:
        if self.above_guessing:
            return ""
        largest = max(self.classes, key=lambda score: score.support)
        return (
            f"No better than guessing, as far as {self.count} scored particles can tell: the balanced accuracy is "
            f"{self.balanced_accuracy:.2f}, and the same answers reach {min(self.by_chance, 1.0):.2f} where labels are dealt "
            f"out at random. Right are {counts_in_words(self.hits, self.count)}; always answering {largest.name!r}, it would "
            f"be {largest.support}."
        )

    def _few(self) -> str:
        few = [f"{score.name} ({score.support})" for score in self.classes if 0 < score.support < HANDFUL]
        if not few:
            return ""
        return f"Few scored particles of {_list(few)}: the 95 % intervals behind the counts say how far such scores can be off."

    def _none(self) -> str:
        none = [score.name for score in self.classes if not score.support]
        return f"No scored particle of {_list(none)}: how well that is found, nobody knows." if none else ""


# ------------------------------------------------------------------------------------- numbers in words


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return between which shares the true one lies with 95 % confidence (Wilson), from ``hits`` of ``count``, at least 1."""
    centre, size = hits + NORMAL**2 / 2, count + NORMAL**2
    half = NORMAL * math.sqrt(hits * (count - hits) / count + NORMAL**2 / 4)
    return max(0.0, (centre - half) / size), min(1.0, (centre + half) / size)


def counts_in_words(hits: int, count: int) -> str:
    """Return a share as counts with its interval, such as ``1 of 1 (0.21 to 1.00)``."""
    return f"{hits} of {count} {_span(interval(hits, count))}"


def share_in_words(hits: int, count: int, *, always_interval: bool = False) -> str:
    """Return a share with three decimals where enough particles stand behind them, else as counts; a dash for 0 of 0."""
    if not count:
        return DASH
    if count < FEW:
        return counts_in_words(hits, count)
    return f"{hits / count:.3f}" + (f" {_span(interval(hits, count))}" if always_interval else "")


def score_in_words(value: float | None, count: int) -> str:
    """Return a score between 0 and 1 with as many decimals as ``count`` particles deserve; a dash for none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{3 if count >= FEW else 2}f}"


def _span(limits: tuple[float, float]) -> str:
    return f"({limits[0]:.2f} to {limits[1]:.2f})"


def _list(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------------------------------------- measuring


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
        predicted=predicted,
        hits=hits,
    )


def _log_loss(probabilities: Floats, labels: Integers) -> float:
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def _reliability(probabilities: Floats, labels: Integers) -> tuple[ReliabilityPoint, ...]:
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    count = int(np.clip(len(order) // IN_BIN, 1, BINS))
    return tuple(
        ReliabilityPoint(
            low=float(confidence[rows].min()),
            high=float(confidence[rows].max()),
            count=len(rows),
            confidence=float(confidence[rows].mean()),
            accuracy=float(right[rows].mean()),
        )
        for rows in np.array_split(order, count)
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
