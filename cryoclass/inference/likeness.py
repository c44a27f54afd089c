"""Ranking particles by likeness to a few examples, without training."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

SMALLEST = 1e-3  # of the mean deviation: numbers of an embedding that hardly change are not blown up


def likeness(embedding: Vectors, examples: Vectors, *, standardise: bool = True) -> Vectors:
    """Return how like each particle is to the examples: 1 the same, 0 as like as any other, -1 the opposite.

    The cosine between a particle and the mean direction of the examples, both seen from the mean of all particles.

    Parameters
    ----------
    embedding
        All particles (n, E), n at least 2.
    examples
        The examples (m, E), which need not be among them.
    standardise
        Bring each number to deviation 1 over all particles first; not where they are in natural units.
    """
    mean, std = embedding.mean(axis=0), embedding.std(axis=0)
    scale = np.maximum(std, SMALLEST * std.mean()) + np.finfo(np.float32).tiny if standardise else 1
    direction = _unit((examples - mean) / scale).mean(axis=0)
    return np.asarray(_unit((embedding - mean) / scale) @ _unit(direction), dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))
