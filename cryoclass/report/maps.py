"""Maps of an embedding in two dimensions, and clusters in it."""

import importlib
import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cryoclass.errors import ParticleError, UsageError
from cryoclass.report.content import Array

Points = NDArray[np.float32]

_FIT_ROWS = 100_000  # as many rows as a PCA is fitted to; it turns any number
_COMPONENTS = (
    50  # kept before t-SNE, UMAP and k-means (van der Maaten & Hinton 2008 keep 30; sklearn advises 50)
)
_WORTH_THREADS = 5000  # particles from which t-SNE uses all cores
_FEWEST = 5  # below this, neighbours mean nothing and the map is a PCA


def project(embedding: Array, method: Literal["pca", "tsne", "umap"], seed: int) -> Points:
    """Lay an embedding out on a plane.

    Parameters
    ----------
    embedding
        Features (n, E), finite.
    method
        ``pca``; ``tsne`` with a perplexity of 30, less for few particles; or ``umap``, which needs umap-learn.
        The last two start from the first 50 principal components; below 5 particles both give the PCA.
    seed
        The same seed gives the same map.

    Returns
    -------
    array
        Positions (n, 2) float32.

    Raises
    ------
    ParticleError
        The embedding holds a value that is not finite.
    UsageError
        An unknown method, or ``umap`` without umap-learn.
    """
    makers = {"pca": _plane, "tsne": _tsne, "umap": _umap}
    if method not in makers:
        raise UsageError(f"--map is {method}; it must be one of {', '.join(makers)}.")
    _check_finite(embedding)
    if len(embedding) < _FEWEST:
        return _plane(embedding, seed)
    return makers[method](embedding, seed)


def clusters(embedding: Array, k: int, seed: int, *, standardise: bool = True) -> NDArray[np.int64]:
    """Group particles by k-means on features, reduced to 50 principal components.

    Parameters
    ----------
    embedding
        Features (n, E), finite.
    k
        Number of clusters asked for; fewer come back where fewer particles differ.
    seed
        The same seed gives the same clusters.
    standardise
        Bring each feature to deviation 1 first; not where they are in natural units.

    Returns
    -------
    array
        Cluster (n,), from 0, the largest first.

    Raises
    ------
    ParticleError
        The embedding holds a value that is not finite.
    UsageError
        ``k`` is below 1 or above the number of particles.
    """
    if not 1 <= k <= len(embedding):
        raise UsageError(f"--clusters is {k}; it must be between 1 and the {len(embedding)} particles.")
    _check_finite(embedding)
    features = StandardScaler().fit_transform(embedding) if standardise else embedding
    features = _principal(features, _COMPONENTS, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct particles than clusters
        found = KMeans(k, n_init=4, random_state=seed).fit_predict(features)
    return _largest_first(found)


def _check_finite(embedding: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise ParticleError(
            f"The embedding of {len(bad)} particles is not finite (the first: number {bad[0] + 1}).",
            "Leave these particles out; their voxels or the model are damaged.",
        )


def _principal(features: Array, components: int, seed: int) -> Array:
    """Return the first principal components (n, at most ``components``); constant features give one of zeros."""
    rows = np.random.default_rng(seed).permutation(len(features))[:_FIT_ROWS]
    sample = features[np.sort(rows)]
    if not np.ptp(sample, axis=0).any():
        return np.zeros((len(features), 1), np.float32)
    fitted = PCA(min(components, *sample.shape), random_state=seed).fit(sample)
    turned: Array = fitted.transform(features)
    return turned


def _plane(embedding: Array, seed: int) -> Points:
    if not len(embedding):
        return np.zeros((0, 2), np.float32)
    turned = _principal(embedding, 2, seed)
    return np.pad(turned, ((0, 0), (0, 2 - turned.shape[1]))).astype(np.float32)


def _tsne(embedding: Array, seed: int) -> Points:
    features = _principal(embedding, _COMPONENTS, seed)
    start = _plane(embedding, seed)
    start = start / max(float(start[:, 0].std()), 1e-12) * 1e-4  # as sklearn scales init="pca"
    perplexity = min(30.0, (len(features) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed)
    # Each of the thousand steps ends in a barrier: on a small table, threads that wait for a busy core cost far more
    # than they bring (360 particles on two busy cores: 15 s with two threads, 1.3 s with one).
    threads = 1 if len(features) < _WORTH_THREADS else None
    with threadpool_limits(threads):
        points: Points = model.fit_transform(np.ascontiguousarray(features, np.float32))
    return points


def _umap(embedding: Array, seed: int) -> Points:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise UsageError(
            "--map umap needs the package umap-learn, which is not installed.",
            "Run: pip install umap-learn, or use --map tsne.",
        ) from error
    features = _principal(embedding, _COMPONENTS, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed means one thread
        model = umap.UMAP(n_neighbors=min(15, len(features) - 1), random_state=seed)
        return np.asarray(model.fit_transform(features), np.float32)


def _largest_first(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(names.max() + 1, np.int64)
    rank[names[order]] = np.arange(len(names))
    return rank[labels]
