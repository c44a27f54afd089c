"""Classes by tomogram, and which tomograms are unlike the others.

What counts as unlike goes by the spread of the tomograms themselves: cells differ, so that counts alone would call nearly every large
tomogram an outlier. A figure of a tomogram is held against the median of all, in units of the spread that is left when that of counting
is taken away, plus its own error of counting; Student's t with Bonferroni's correction for all figures that are looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoclass.metrics import NORMAL, interval
from cryoclass.results import UNREADABLE, Decisions

Floats = NDArray[np.float64]

FEWEST_TOMOGRAMS = 5  # with enough particles
FEWEST_PARTICLES = 10  # of a tomogram
CHANCE = 0.05  # that any tomogram at all is called unlike the others where none is
SHARE_APART, PROBABILITY_APART, GREY_APART = (
    0.1,
    0.05,
    0.4,
)  # differences that are worth a word; the last one of a logarithm
_MAD = 1.4826  # from the median of absolute deviations to a standard deviation


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Particles by tomogram and class.

    Attributes
    ----------
    names
        The T tomograms, in the order of the table; an empty name where it says none.
    counts
        Particles of each class (T, K).
    unsure, unreadable
        Particles that have no class (T,).
    probability, error
        Mean of the highest probability over all that the network has spoken of, and its standard error (T,); NaN without any.
    grey
        Mean and deviation of the grey values of a section through the middle (T, 2); NaN where none was looked at.
    """

    names: Sequence[str]
    counts: NDArray[np.int64]
    unsure: NDArray[np.int64]
    unreadable: NDArray[np.int64]
    probability: Floats
    error: Floats
    grey: Floats

    @property
    def shown(self) -> list[str]:
        """Names to show: without folders, where they stay apart."""
        short = [name.replace("\\", "/").rpartition("/")[2] or "(no tomogram named)" for name in self.names]
        return (
            short if len(set(short)) == len(short) else [name or "(no tomogram named)" for name in self.names]
        )

    @property
    def told(self) -> NDArray[np.int64]:
        """Particles that the network has spoken of (T,)."""
        return np.asarray(self.counts.sum(axis=1) + self.unsure)

    def probability_interval(self, index: int) -> tuple[float, float]:
        """Return the 95 % interval of the mean probability of a tomogram; NaN for less than two particles."""
        low, high = np.clip(self.probability[index] + np.array([-NORMAL, NORMAL]) * self.error[index], 0, 1)
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A tomogram that is unlike the others: its number among them, the name to show, and why, in words."""

    index: int
    name: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} is unlike the other tomograms: {'; '.join(self.reasons)}"


def tally(
    tomograms: Sequence[str],
    decisions: Decisions,
    classes: int,
    grey: Mapping[str, tuple[float, float]] | None = None,
) -> Tally:
    """Count the particles of each tomogram and class.

    Parameters
    ----------
    tomograms
        That of each row (n,).
    decisions
        What is said of each row.
    classes
        K.
    grey
        Mean and deviation of the grey values of tomograms, as far as they were looked at.
    """
    names = list(dict.fromkeys(tomograms))
    place = {name: number for number, name in enumerate(names)}
    of = np.array([place[name] for name in tomograms], np.int64)
    count = len(names)

    def by_tomogram(
        rows: NDArray[np.bool_] | NDArray[np.int64], weights: Floats | None = None
    ) -> NDArray[np.float64]:
        return np.asarray(np.bincount(of[rows], weights, count), np.float64)

    counts = np.stack([by_tomogram(decisions.classes == number) for number in range(classes)], axis=1)
    done = decisions.done
    told, highest = by_tomogram(done), decisions.probabilities[done].max(axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = by_tomogram(done, highest) / told
        spread = by_tomogram(done, np.square(highest - mean[of[done]])) / (told - 1)
        error = np.sqrt(spread / told)
    looked_at = grey or {}
    return Tally(
        names=names,
        counts=counts.astype(np.int64),
        unsure=(told - counts.sum(axis=1)).astype(np.int64),
        unreadable=by_tomogram(decisions.status == UNREADABLE).astype(np.int64),
        probability=mean,
        error=error,
        grey=np.array([looked_at.get(name, (np.nan, np.nan)) for name in names], float).reshape(-1, 2),
    )


# ---------------------------------------------------------------------------------------------- outliers


def outliers(counted: Tally, classes: Sequence[str]) -> list[Outlier] | None:
    """Return the tomograms that are unlike the others; None where they are too few to tell."""
    rows = _enough(counted)
    if len(rows) < FEWEST_TOMOGRAMS:
        return None
    reasons: dict[int, list[str]] = {}
    for index, words in _reasons(counted, classes, rows):
        reasons.setdefault(index, []).append(words)
    return [
        Outlier(index=index, name=counted.shown[index], reasons=tuple(words))
        for index, words in sorted(reasons.items())
    ]


def too_few(counted: Tally) -> str:
    """Say why outliers cannot be told."""
    return (
        f"whether a tomogram is unlike the others could not be told: {len(_enough(counted))} of {len(counted.names)} have at least "
        f"{FEWEST_PARTICLES} classified particles, and {FEWEST_TOMOGRAMS} are the fewest"
    )


def _enough(counted: Tally) -> NDArray[np.int64]:
    return np.flatnonzero(counted.told >= FEWEST_PARTICLES)


def _reasons(counted: Tally, classes: Sequence[str], rows: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """Yield tomograms with what is unlike in them."""
    shares = [(name, counted.counts[rows, number]) for number, name in enumerate(classes)]
    if counted.unsure[rows].any():
        shares.append(("no class", counted.unsure[rows]))
    grey = rows[np.isfinite(counted.grey[rows]).all(axis=1) & (counted.grey[rows, 1] > 0)]
    figures = len(shares) + 1 + 2 * (len(grey) >= FEWEST_TOMOGRAMS)
    for name, found in shares:
        yield from _unlike_shares(name, found, counted.told[rows], rows, figures)
    yield from _unlike_probability(counted, rows, figures)
    if len(grey) >= FEWEST_TOMOGRAMS:
        yield from _unlike_grey(counted, grey, figures)


def _unlike_shares(
    name: str, found: NDArray[np.int64], told: NDArray[np.int64], rows: NDArray[np.int64], figures: int
) -> Iterator[tuple[int, str]]:
    stable = np.arcsin(
        np.sqrt((found + 3 / 8) / (told + 3 / 4))
    )  # Anscombe 1948: the same error for all shares
    odd = _odd(stable, 0.5 / np.sqrt(told + 0.5), figures)
    for place in odd:
        own = found[place] / told[place]
        usual = float(np.median(np.delete(found / told, place)))
        if abs(own - usual) >= SHARE_APART:
            low, high = interval(int(found[place]), int(told[place]))
            words = f"{name} {found[place]} of {told[place]} ({own:.2f}; {low:.2f} to {high:.2f}), in the others {usual:.2f}"
            yield int(rows[place]), words


def _unlike_probability(counted: Tally, rows: NDArray[np.int64], figures: int) -> Iterator[tuple[int, str]]:
    values = counted.probability[rows]
    for place in _odd(values, counted.error[rows], figures):
        usual = float(np.median(np.delete(values, place)))
        if abs(values[place] - usual) >= PROBABILITY_APART:
            low, high = counted.probability_interval(int(rows[place]))
            words = (
                f"mean probability {values[place]:.2f} ({low:.2f} to {high:.2f}) of {counted.told[rows[place]]} particles, "
                f"in the others {usual:.2f}"
            )
            yield int(rows[place]), words


def _unlike_grey(counted: Tally, rows: NDArray[np.int64], figures: int) -> Iterator[tuple[int, str]]:
    mean, deviation = counted.grey[rows].T
    for place in _odd(np.log(deviation), np.zeros(len(rows)), figures):
        usual = float(np.median(np.delete(deviation, place)))
        if abs(np.log(deviation[place] / usual)) >= GREY_APART:
            yield (
                int(rows[place]),
                f"grey values have a deviation of {deviation[place]:.3g} (one section), in the others {usual:.3g}",
            )
    for place in _odd(mean, np.zeros(len(rows)), figures):
        usual = float(np.median(np.delete(mean, place)))
        if abs(mean[place] - usual) >= GREY_APART * np.median(deviation):
            yield (
                int(rows[place]),
                f"grey values have a mean of {mean[place]:.3g} (one section), in the others {usual:.3g}",
            )


def _odd(values: Floats, errors: Floats, figures: int) -> list[int]:
    """Return the places of values (t,) that lie farther from the median than spread, error (t,) and chance explain."""
    from scipy.stats import t as student

    middle = np.median(values)
    spread = (_MAD * np.median(np.abs(values - middle))) ** 2
    between = max(0.0, float(spread - np.median(np.square(errors))))
    unit = np.sqrt(between + np.square(errors))
    with np.errstate(invalid="ignore", divide="ignore"):
        far = np.abs(values - middle) / unit
    chance = 2 * student.sf(np.nan_to_num(far, nan=0.0, posinf=np.inf), len(values) - 1)
    odd: list[int] = np.flatnonzero(chance * len(values) * figures < CHANCE).tolist()
    return odd
