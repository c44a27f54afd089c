"""Ways to group particles by their embedding.

Every way but plain k-means looks at directions alone, since particles of one species lie along a direction, some farther out than
others. K-means of either kind starts from the groups that Ward's method finds: from random centres it often ends
where two species are merged and another one is split, and four of them beside these bring nothing more. It says the same for every seed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoclass.embedding import Vectors, principal, unit
from cryoclass.settings import ClusterMethod

Labels = NDArray[np.int64]

METHODS: tuple[ClusterMethod, ...] = ("cosine", "ward", "kmeans", "hdbscan")
WARD_MOST = 5000  # particles; Ward's method needs the distance of each to each: 100 MB
HDBSCAN_COMPONENTS = 10  # density means little in more dimensions
NONE = -1  # the group of a particle that belongs to none


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Particles as the ways to group see them.

    Attributes
    ----------
    lengths
        First principal components of the features, as long as they are, (n, d).
    directions
        First principal components of the features brought to length 1, (n, d).
    """

    lengths: Vectors
    directions: Vectors

    def __len__(self) -> int:
        return len(self.directions)

    def of(self, method: ClusterMethod) -> Vectors:
        """Return what a method looks at."""
        if method == "hdbscan":
            return self.directions[:, :HDBSCAN_COMPONENTS]
        return self.lengths if method == "kmeans" else self.directions

    def some(self, rows: NDArray[np.int64]) -> "Points":
        """Return a few of the particles."""
        return Points(lengths=self.lengths[rows], directions=self.directions[rows])


def points_of(features: Vectors, seed: int) -> Points:
    """Return particles (n, E) as the ways to group see them."""
    return Points(lengths=principal(features, seed=seed), directions=principal(unit(features), seed=seed))


def group(points: Points, method: ClusterMethod, numbers: Sequence[int], seed: int) -> list[Labels]:
    """Group particles by one method, into each of several numbers of groups.

    Of more than :data:`WARD_MOST` particles, Ward's method and HDBSCAN group as many, drawn at random; the others go to the nearest
    centre, with HDBSCAN where their nearest neighbour is.

    Parameters
    ----------
    points
        The particles.
    method
        How. ``hdbscan`` finds the number itself, the same for all.
    numbers
        How many groups; fewer come back where fewer particles differ.
    seed
        The same seed gives the same groups.

    Returns
    -------
    list of arrays
        For each number the group of each particle (n,), from 0, the largest first; -1 for those that belong to none, which only
        ``hdbscan`` says.
    """
    seen = points.of(method)
    rows = drawn(len(seen), WARD_MOST, seed)
    if method == "hdbscan":
        found = _like_neighbours(seen[rows], _hdbscan(seen[rows]), seen)
        return [_largest_first(found)] * len(numbers)
    cuts = _ward(seen[rows], numbers)
    if method == "ward":
        return [_largest_first(_nearest_centre(seen[rows], cut, seen)) for cut in cuts]
    return [_largest_first(_kmeans(seen, _centres(seen[rows], cut))) for cut in cuts]


def drawn(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return row numbers in rising order: all of ``count``, or as many as allowed, at random."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _ward(seen: Vectors, numbers: Sequence[int]) -> list[Labels]:
    """Cut the one tree of Ward's method at several heights."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(seen) < 2 or not np.ptp(seen, axis=0).any():
        return [np.zeros(len(seen), np.int64) for _ in numbers]
    tree = linkage(seen, "ward")
    return [fcluster(tree, number, "maxclust").astype(np.int64) - 1 for number in numbers]


def _centres(seen: Vectors, labels: Labels) -> Vectors:
    return np.stack([seen[labels == number].mean(axis=0) for number in range(int(labels.max()) + 1)])


def _nearest_centre(sample: Vectors, labels: Labels, seen: Vectors) -> Labels:
    """Give each particle the group of the nearest centre, those that were grouped their own."""
    if len(sample) == len(seen):
        return labels
    from sklearn.metrics import pairwise_distances_argmin

    return np.asarray(pairwise_distances_argmin(seen, _centres(sample, labels)), np.int64)


def _kmeans(seen: Vectors, centres: Vectors) -> Labels:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct particles than groups
        return np.asarray(KMeans(len(centres), init=centres, n_init=1).fit_predict(seen), np.int64)


def _hdbscan(seen: Vectors) -> Labels:
    """Group by density; a group has ten particles, or a hundredth of all."""
    from sklearn.cluster import HDBSCAN

    fewest = max(10, len(seen) // 100)
    if len(seen) < fewest:
        return np.full(len(seen), NONE, np.int64)
    model = HDBSCAN(min_cluster_size=fewest, min_samples=5, copy=True)
    return np.asarray(model.fit_predict(seen.astype(np.float64)), np.int64)


def _like_neighbours(sample: Vectors, labels: Labels, seen: Vectors) -> Labels:
    if len(sample) == len(seen):
        return labels
    from sklearn.neighbors import KNeighborsClassifier

    return np.asarray(KNeighborsClassifier(1).fit(sample, labels).predict(seen), np.int64)


def _largest_first(labels: Labels) -> Labels:
    """Give groups new numbers, the largest first; those without one stay so."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    ranked = np.full(int(labels.max(initial=0)) + 2, NONE, np.int64)  # the last place is that of no group
    ranked[names[np.lexsort((first, -counts))]] = np.arange(len(names))
    return ranked[labels]
