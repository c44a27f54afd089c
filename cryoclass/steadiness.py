"""How far clusters can be trusted: whether they come back, how many stand out, and whether other ways to group find them too.

All is measured on the same particles, at most :data:`MOST` of them, drawn at random.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cryoclass.clustering import METHODS, Labels, Points, drawn, group, points_of
from cryoclass.embedding import Vectors
from cryoclass.progress import Track, silent
from cryoclass.settings import ClusterMethod, Mapping2d

MOST = 1500  # particles that everything is measured on
RESAMPLES = 10
SHARE = 0.8  # of the particles, in each of the two draws of a resample
CLOUDS = 3
STABLE = 0.9  # stability below which a part of the clusters is drawn by chance
ABOVE = 0.05  # by how much a silhouette must exceed that of a cloud without groups
CLOSE = 0.01  # to the number that stands out most, as good as it: of equals, more clusters say more
EACH = 5  # particles that a cluster must have on average for its number to be tried
PART = 0.2  # of a cluster, from which a piece of it is worth a word
INSIDE = 0.6  # of a cluster, from which it counts as a piece of another
_BOOTSTRAPS = 200


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Mean adjusted Rand index between groups of two random draws of particles, on those in both; its deviation over the resamples."""

    mean: float
    deviation: float
    resamples: int = RESAMPLES

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Adjusted Rand index of two clusterings, with its 95 % interval over the particles."""

    index: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.index:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """What was measured of one method and number.

    Attributes
    ----------
    method, number
        How, and into how many groups; with ``hdbscan`` how many it found.
    labels
        Groups of the particles that everything is measured on (m,), -1 for none.
    stability
        None where particles are too few for that number, and of a single group.
    silhouette
        Mean over the particles, by their directions; None with less than two groups.
    cloud
        The same of one cloud without groups that is as long and as wide; None where it was not asked for.
    """

    method: ClusterMethod
    number: int
    labels: Labels
    stability: Stability | None
    silhouette: float | None
    cloud: float | None = None

    @property
    def above(self) -> float:
        """By how much the silhouette exceeds that of the cloud."""
        return -np.inf if self.silhouette is None or self.cloud is None else self.silhouette - self.cloud

    @property
    def merit(self) -> float:
        """By how much they stand out: :attr:`above`, as far as the groups come back."""
        return -np.inf if self.stability is None else self.above * self.stability.mean

    @property
    def stands_out(self) -> bool:
        """Whether the groups come back, and lie farther apart than those of a cloud without any."""
        return self.stability is not None and self.stability.mean >= STABLE and self.above >= ABOVE

    def __str__(self) -> str:
        silhouette = "none" if self.silhouette is None else f"{self.silhouette:.2f}"
        beside = "" if self.cloud is None else f" against {self.cloud:.2f} of one cloud without groups"
        again = (
            "not told"
            if self.stability is None
            else f"{self.stability} over {self.stability.resamples} resamples"
        )
        return f"silhouette {silhouette}{beside}, stability {again}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Clusterings of one embedding, and what speaks for them.

    Attributes
    ----------
    method
        The one that was chosen.
    labels
        Group of each particle (n,) by each method, from 0, the largest first; -1 for none.
    measured
        What was measured of each of these.
    scanned
        What was measured of the chosen method at each number that was tried.
    particles
        How many everything was measured on.
    suggested
        How many clusters stand out; None where that could not be told.
    reason
        Why, as a sentence.
    agreements
        Of each two methods.
    """

    method: ClusterMethod
    labels: Mapping[ClusterMethod, Labels]
    measured: Mapping[ClusterMethod, Tried]
    scanned: Sequence[Tried]
    particles: int
    suggested: int | None
    reason: str
    agreements: Mapping[tuple[ClusterMethod, ClusterMethod], Agreement]

    @property
    def chosen(self) -> Labels:
        """Group of each particle (n,)."""
        return self.labels[self.method]

    def agreement(self, one: ClusterMethod, other: ClusterMethod) -> Agreement:
        """Return how far two methods agree."""
        return self.agreements[(one, other) if (one, other) in self.agreements else (other, one)]

    @property
    def disagreements(self) -> list[str]:
        """Return where each other method groups otherwise than the chosen one, as sentences."""
        others = [method for method in self.labels if method != self.method]
        words = (disagreement(self.method, self.chosen, method, self.labels[method]) for method in others)
        return [sentence for sentence in words if sentence]

    @property
    def doubts(self) -> list[str]:
        """Return what speaks against the chosen clusters, as sentences."""
        found, said = self.measured[self.method], []
        asked = found.number
        if self.method != "hdbscan" and int(self.chosen.max(initial=-1)) + 1 < asked:
            said.append(
                f"only {int(self.chosen.max(initial=-1)) + 1} of {asked} clusters were found: too few particles differ."
            )
        if asked > 1 and found.stability is not None and found.stability.mean < STABLE:
            said.append(
                f"the {asked} clusters do not all come back: groups of two random draws of {100 * SHARE:g} % of the particles agree to "
                f"{found.stability} (adjusted Rand index, {found.stability.resamples} resamples); some borders are drawn by chance."
            )
        return said + self.disagreements


def study(features: Vectors, layout: Mapping2d, track: Track = silent) -> Study:
    """Group particles by each method, and measure what speaks for the groups.

    Parameters
    ----------
    features
        Particles (n, E), at least one.
    layout
        Which method and number are asked for.
    track
        What the resamples are passed through.
    """
    method, seed = layout.method_of_clusters, layout.seed
    points = points_of(features, seed)
    rows = drawn(len(points), MOST, seed)
    sample = points.some(rows)
    scanned = _scan(features[rows], sample, layout, track)
    suggested, reason = _suggested(method, scanned, len(rows))
    number = layout.clusters if isinstance(layout.clusters, int) else suggested or 1
    labels = {method: group(points, method, [number], seed)[0]}
    if number > 1 and method != "hdbscan":
        labels |= {other: group(points, other, [number], seed)[0] for other in METHODS if other != method}
    elif method == "hdbscan" and suggested is not None:
        labels |= {other: group(points, other, [suggested], seed)[0] for other in METHODS if other != method}
    known = {(tried.method, tried.number): tried for tried in scanned}
    measured = {
        name: known.get((name, number)) or _try(sample, name, [_count(name, found, number)], seed, track)[0]
        for name, found in labels.items()
    }
    on_sample = {name: found[rows] for name, found in labels.items()}
    return Study(
        method=method,
        labels=labels,
        measured=measured,
        scanned=scanned,
        particles=len(rows),
        suggested=suggested,
        reason=reason,
        agreements={
            (one, other): agreement(on_sample[one], on_sample[other], seed)
            for one, other in combinations(labels, 2)
        },
    )


def _count(method: ClusterMethod, labels: Labels, number: int) -> int:
    return int(labels.max(initial=-1)) + 1 if method == "hdbscan" else number


def _scan(features: Vectors, sample: Points, layout: Mapping2d, track: Track) -> list[Tried]:
    """Try the chosen method at every number that may be suggested, and at the one that is asked for."""
    method, seed = layout.method_of_clusters, layout.seed
    if method == "hdbscan":
        return _try(sample, method, [0], seed, track)
    most = min(layout.max_clusters, len(sample) // EACH)
    asked = {layout.clusters} if isinstance(layout.clusters, int) and layout.clusters < len(sample) else set()
    numbers = sorted({*range(2, most + 1)} | asked)
    if not numbers:
        return []
    clouds = [_cloud(features, seed + number) for number in range(CLOUDS)]
    beside = np.array(
        [
            [_silhouette(cloud, found) or 0 for found in group(cloud, method, numbers, seed)]
            for cloud in clouds
        ]
    ).mean(axis=0)
    tried = _try(sample, method, numbers, seed, track)
    return [
        Tried(**{**vars(one), "cloud": float(cloud)})
        for one, cloud in zip(tried, beside.tolist(), strict=True)
    ]


def _try(
    sample: Points, method: ClusterMethod, numbers: Sequence[int], seed: int, track: Track
) -> list[Tried]:
    found = group(sample, method, numbers, seed)
    again = stabilities(sample, method, numbers, seed, track)
    return [
        Tried(
            method=method,
            number=_count(method, labels, number),
            labels=labels,
            stability=stability if _count(method, labels, number) > 1 else None,
            silhouette=_silhouette(sample, labels),
        )
        for number, labels, stability in zip(numbers, found, again, strict=True)
    ]


def _cloud(features: Vectors, seed: int) -> Points:
    """Return as many particles without any groups: one normal distribution with the same principal components."""
    spread = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) / np.sqrt(len(features))
    drawn_anew = np.random.default_rng(seed).standard_normal((len(features), len(spread))) * spread
    return points_of(np.asarray(drawn_anew - drawn_anew.mean(axis=0), np.float32), seed)


def _silhouette(points: Points, labels: Labels) -> float | None:
    from sklearn.metrics import silhouette_score

    kept = labels >= 0
    if not 2 <= len(np.unique(labels[kept])) < kept.sum():
        return None
    return float(silhouette_score(points.directions[kept], labels[kept]))


# ------------------------------------------------------------------------------------------- stability


def stabilities(
    points: Points, method: ClusterMethod, numbers: Sequence[int], seed: int, track: Track = silent
) -> list[Stability | None]:
    """Return for each number of groups whether they come back: see :class:`Stability`; None where particles are too few."""
    size, rng = int(SHARE * len(points)), np.random.default_rng(seed)
    able = [number for number in numbers if number <= size or method == "hdbscan"]
    if size < 2 or not able:
        return [None] * len(numbers)
    pairs = [[np.sort(rng.permutation(len(points))[:size]) for _ in range(2)] for _ in range(RESAMPLES)]
    indices = np.array(
        [_between(points, method, able, pair) for pair in track(pairs, f"stability of {method}", RESAMPLES)]
    )
    told = {
        number: Stability(mean=float(values.mean()), deviation=float(values.std(ddof=1)))
        for number, values in zip(able, indices.T, strict=True)
    }
    return [told.get(number) for number in numbers]


def _between(
    points: Points, method: ClusterMethod, numbers: Sequence[int], pair: Sequence[NDArray[np.int64]]
) -> list[float]:
    """Return how far groups of two shares of the particles agree on those in both, for each number."""
    from sklearn.metrics import adjusted_rand_score

    one, other = (group(points.some(rows), method, numbers, 0) for rows in pair)
    _, at_one, at_other = np.intersect1d(pair[0], pair[1], assume_unique=True, return_indices=True)
    return [float(adjusted_rand_score(a[at_one], b[at_other])) for a, b in zip(one, other, strict=True)]


# ------------------------------------------------------------------------------------------ how many


def _suggested(method: ClusterMethod, scanned: Sequence[Tried], particles: int) -> tuple[int | None, str]:
    """Return the number that stands out most, None where none does, and why."""
    untold = "how many clusters there are could not be told"
    if method == "hdbscan":
        found = scanned[0]
        if found.number < 2:
            return None, f"{untold}: hdbscan finds {found.number or 'none'}."
        return found.number, f"{found.number} clusters are what hdbscan finds ({found})."
    tried = [one for one in scanned if one.number <= particles // EACH]
    if not tried:
        return None, f"{untold}: {particles} particles are too few; {2 * EACH} are the fewest."
    span = f"of 2 to {tried[-1].number}"
    nearest = max(tried, key=lambda one: one.above)
    if standing := [one for one in tried if one.stands_out]:
        highest = max(one.merit for one in standing)
        best = [one for one in standing if one.merit >= highest - CLOSE][-1]
        words = f"{best.number} clusters are suggested: {span}, they stand out most ({best})"
        last = " It is the largest number that was tried; there may be more." if best is tried[-1] else ""
        return best.number, f"{words}.{last}"
    return (
        None,
        f"{untold}: {span}, none both comes back and lies farther apart than one cloud without groups; the nearest is {nearest.number} ({nearest}).",
    )


# ----------------------------------------------------------------------------------------- agreement


def agreement(one: Labels, other: Labels, seed: int = 0) -> Agreement:
    """Return how far two clusterings (n,) agree; particles without a group count as a group of their own."""
    table = _shared(one, other)[2].astype(np.float64)
    total = table.sum()
    again = np.random.default_rng(seed).multinomial(int(total), table.ravel() / total, _BOOTSTRAPS)
    spread = _rand_index(again.reshape(-1, *table.shape).astype(np.float64))
    low, high = np.quantile(spread, (0.025, 0.975))
    return Agreement(index=float(_rand_index(table)), low=float(low), high=float(high))


def _shared(one: Labels, other: Labels) -> tuple[Labels, Labels, NDArray[np.int64]]:
    """Return the names of the groups of two clusterings, and how many particles each two of them share."""
    names, rows = np.unique(one, return_inverse=True)
    others, columns = np.unique(other, return_inverse=True)
    table = np.zeros((len(names), len(others)), np.int64)
    np.add.at(table, (rows, columns), 1)
    return names, others, table


def _rand_index(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the adjusted Rand index (Hubert & Arabie 1985) of contingency tables (..., r, c)."""

    def pairs(counts: NDArray[np.float64], axis: int | tuple[int, int]) -> NDArray[np.float64]:
        return np.asarray((counts * (counts - 1) / 2).sum(axis=axis))

    rows, columns = pairs(tables.sum(axis=-1), -1), pairs(tables.sum(axis=-2), -1)
    total = tables.sum(axis=(-2, -1))
    expected = rows * columns / np.maximum(total * (total - 1) / 2, 1)
    most = (rows + columns) / 2
    apart = most - expected
    return np.where(apart > 0, (pairs(tables, (-2, -1)) - expected) / np.where(apart > 0, apart, 1), 1.0)


def disagreement(method: ClusterMethod, chosen: Labels, other_method: ClusterMethod, other: Labels) -> str:
    """Say which clusters of the chosen method another one splits or merges; nothing where it does neither."""
    names, others, table = _shared(chosen, other)
    table, names, others = table[names >= 0][:, others >= 0], names[names >= 0], others[others >= 0]
    if not table.size:
        return ""
    splits = [
        f"cluster {names[row] + 1} ({_list(table[row, pieces])} of {(chosen == names[row]).sum()} particles)"
        for row, pieces in _pieces(table)
    ]
    merges = [f"clusters {_list(names[pieces] + 1)}" for _, pieces in _pieces(table.T)]
    said = [f"{verb} {_list(what)}" for verb, what in (("splits", splits), ("merges", merges)) if what]
    return f"{other_method} {' and '.join(said)} of {method}." if said else ""


def _pieces(table: NDArray[np.int64]) -> Iterable[tuple[int, NDArray[np.int64]]]:
    """Yield each row of which at least two columns are pieces: mostly inside it, and a good part of it."""
    inside = table >= INSIDE * np.maximum(table.sum(axis=0), 1)
    large = table >= PART * np.maximum(table.sum(axis=1, keepdims=True), 1)
    for row, pieces in enumerate(inside & large):
        if pieces.sum() > 1:
            yield row, np.flatnonzero(pieces)


def _list(items: Iterable[object]) -> str:
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
