"""Sharing few labelled particles out for cross-validation, so that each is scored by a fit that has not seen it."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

Rows = NDArray[np.int64]
Integers = NDArray[np.integer]


def shared_out(targets: Integers, groups: Sequence[Integers]) -> list[tuple[Rows, Rows]]:
    """Return pairs of rows that are fitted to and rows that are then scored.

    Classes are spread evenly. Rows of one group stay together, by the first of the groupings that leaves every class something to learn
    from; particles that are alone in their class are always fitted to, and never scored.

    Parameters
    ----------
    targets
        Class numbers (n,).
    groups
        Groupings, each a number per row (n,), the one that is wished for first.
    """
    several = np.flatnonzero(np.bincount(targets)[targets] > 1)
    if not len(several):
        return []
    for grouping in (*groups, np.arange(len(targets))):
        found = [
            (np.setdiff1d(np.arange(len(targets)), out), out)
            for out in _left_out(targets[several], grouping[several], several)
        ]
        if found and all(len(np.unique(targets[rest])) == len(np.unique(targets)) for rest, _ in found):
            return found
    return []


def _left_out(targets: Integers, groups: Integers, rows: Rows) -> Iterator[Rows]:
    from sklearn.model_selection import StratifiedGroupKFold

    counts = [len(np.unique(groups[targets == name])) for name in np.unique(targets)]
    folds = min(FOLDS, *counts) if len(counts) > 1 else min(FOLDS, counts[0])
    if folds < 2:  # a class lies in one group alone
        return
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for _, out in splitter.split(rows, targets, groups):
        yield rows[out]
