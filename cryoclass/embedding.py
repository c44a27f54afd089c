"""One space in which embeddings are compared: map, clusters, likeness and head all see the same one.

A network's numbers have means that say nothing and sizes that rarely do. :func:`fit_space` takes both away, once, over the
particles that it is given; everything else here takes features: embeddings placed in that space.
"""

import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import ParticleError, UsageError

Vectors = NDArray[np.float32]

SMALLEST = 1e-3  # of the mean deviation: numbers of an embedding that hardly change are not blown up
COMPONENTS = (
    50  # kept before t-SNE, UMAP and clusters (van der Maaten & Hinton 2008 keep 30; sklearn advises 50)
)

_FIT_ROWS = 100_000  # as many rows as a PCA is fitted to; it turns any number
_WORTH_THREADS = 5000  # particles from which t-SNE uses all cores
_FEWEST = 5  # below this, neighbours mean nothing and the map is a PCA


# -------------------------------------------------------------------------------------------- the space


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Where embeddings are compared; from :func:`fit_space`.

    Parameters
    ----------
    mean, scale
        What is subtracted from each number of an embedding, and what it is then divided by, (E,) float32.
    """

    mean: Vectors
    scale: Vectors

    def place(self, embedding: Vectors) -> Vectors:
        """Return the features (n, E) of embeddings (n, E), float32.

        Raises
        ------
        ParticleError
            The embedding holds a value that is not finite.
        """
        _check_finite(embedding)
        return np.asarray((embedding - self.mean) / self.scale, np.float32)

    def for_embeddings(
        self, weight: NDArray[np.floating], bias: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Turn a linear layer for features, (K, E) and (K,), into the same one for embeddings as they are."""
        plain = weight / self.scale
        return plain, bias - plain @ self.mean


def fit_space(embedding: Vectors, *, natural_units: bool) -> Space:
    """Return the space in which these particles have mean 0, and each number deviation 1.

    Parameters
    ----------
    embedding
        Those particles (n, E), at least one.
    natural_units
        The numbers weigh as much as they say, as after :mod:`cryoclass.pretraining.sharpen`: their sizes stay.

    Raises
    ------
    ParticleError
        The embedding holds a value that is not finite.
    """
    _check_finite(embedding)
    mean = embedding.mean(axis=0, dtype=np.float64).astype(np.float32)
    if natural_units:
        return Space(mean=mean, scale=np.ones_like(mean))
    deviation = np.sqrt(np.square(embedding - mean).mean(axis=0, dtype=np.float64))
    scale = np.maximum(deviation, SMALLEST * deviation.mean())
    return Space(mean=mean, scale=np.where(scale > 0, scale, 1).astype(np.float32))


def _check_finite(embedding: Vectors) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise ParticleError(
            f"The embedding of {len(bad)} particles is not finite (the first: number {bad[0] + 1}).",
            "Leave these particles out; their voxels or the model are damaged.",
        )


# --------------------------------------------------------------------------------------------- likeness


def likeness(features: Vectors, examples: Vectors) -> Vectors:
    """Return how like each particle is to the examples: 1 the same, 0 as like as any other, -1 the opposite.

    The cosine between a particle and the mean direction of the examples, both seen from the mean of all particles.

    Parameters
    ----------
    features
        All particles (n, E).
    examples
        The examples (m, E) in the same space, which need not be among them.

    Returns
    -------
    array
        Values (n,) float32.
    """
    direction = unit(examples).mean(axis=0)
    return np.asarray(unit(features) @ unit(direction), dtype=np.float32)


def unit(vectors: Vectors) -> Vectors:
    """Return vectors (..., E) brought to length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))


# ------------------------------------------------------------------------------------------------- maps


def project(features: Vectors, method: Literal["pca", "tsne", "umap"], seed: int) -> Vectors:
    """Lay particles out on a plane.

    Parameters
    ----------
    features
        Particles (n, E).
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
    UsageError
        An unknown method, or ``umap`` without a umap-learn that works.
    """
    makers = {"pca": _plane, "tsne": _tsne, "umap": _umap}
    if method not in makers:
        raise UsageError(f"--map is {method}; it must be one of {', '.join(makers)}.")
    if len(features) < _FEWEST:
        return _plane(features, seed)
    return makers[method](features, seed)


def _plane(features: Vectors, seed: int) -> Vectors:
    if not len(features):
        return np.zeros((0, 2), np.float32)
    turned = principal(features, 2, seed=seed)
    return np.pad(turned, ((0, 0), (0, 2 - turned.shape[1]))).astype(np.float32)


def _tsne(features: Vectors, seed: int) -> Vectors:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    kept = principal(features, seed=seed)
    start = _plane(features, seed)
    start = start / max(float(start[:, 0].std()), 1e-12) * 1e-4  # as sklearn scales init="pca"
    perplexity = min(30.0, (len(kept) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed)
    # Each of the thousand steps ends in a barrier: on a small table, threads that wait for a busy core cost far more
    # than they bring (360 particles on two busy cores: 15 s with two threads, 1.3 s with one).
    threads = 1 if len(kept) < _WORTH_THREADS else None
    with threadpool_limits(threads):
        points: Vectors = model.fit_transform(np.ascontiguousarray(kept, np.float32))
    return points


def load_umap() -> Any:
    """Return the module of umap-learn.

    Raises
    ------
    UsageError
        It is not installed, fails when it is loaded, or is another package of the same name.
    """
    if importlib.util.find_spec("umap") is None:
        raise UsageError(
            "--map umap needs the package umap-learn, which is not installed.",
            "Run: pip install umap-learn, or use --map tsne.",
        )
    again = "Run: pip install --force-reinstall umap-learn, or use --map tsne."
    try:
        umap = importlib.import_module("umap")
    except Exception as error:
        why = f"{type(error).__name__}: {error}".rstrip(".")
        raise UsageError(
            f"--map umap: umap-learn is installed, but cannot be loaded: {why}.", again
        ) from error
    if not hasattr(umap, "UMAP"):
        raise UsageError(f"--map umap: {umap.__file__} is not umap-learn, but has its name.", again)
    return umap


def _umap(features: Vectors, seed: int) -> Vectors:
    umap = load_umap()
    kept = principal(features, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed means one thread
        model = umap.UMAP(n_neighbors=min(15, len(kept) - 1), random_state=seed)
        return np.asarray(model.fit_transform(kept), np.float32)


def principal(features: Vectors, components: int = COMPONENTS, *, seed: int) -> Vectors:
    """Return the first principal components (n, at most ``components``); constant features give one of zeros."""
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(seed).permutation(len(features))[:_FIT_ROWS]
    sample = features[np.sort(rows)]
    if not np.ptp(sample, axis=0).any():
        return np.zeros((len(features), 1), np.float32)
    fitted = PCA(min(components, *sample.shape), random_state=seed).fit(sample)
    turned: Vectors = fitted.transform(features)
    return turned
