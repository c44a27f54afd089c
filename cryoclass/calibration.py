"""Making probabilities mean what they say: logits divided by one number, the temperature (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

RANGE = (0.05, 20.0)


def fit_temperature(logits: Floats, targets: Integers) -> float:
    """Return the temperature at which logits of particles that were not learnt from are most likely.

    The truth is taken to be told with a small chance of error, 1 in n + 2 (Platt 1999): where all of a few are right, nobody knows
    that the next one is.

    Parameters
    ----------
    logits
        (n, K), n at least 1.
    targets
        True class numbers (n,).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    count, classes = logits.shape
    wrong = 1 / (count + 2)
    truth = np.full((count, classes), wrong / max(classes - 1, 1))
    truth[np.arange(count), targets] = 1 - wrong

    def unlikely(log_temperature: float) -> float:
        return float(-(truth * log_softmax(logits / np.exp(log_temperature), axis=1)).sum() / count)

    found = minimize_scalar(unlikely, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))


def at_temperature(probabilities: Floats, temperature: float) -> NDArray[np.float32]:
    """Return the probabilities (n, K) that the same logits give at a temperature."""
    from scipy.special import softmax

    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.asarray(softmax(logs / temperature, axis=1), np.float32)
