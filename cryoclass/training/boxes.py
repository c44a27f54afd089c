"""The voxels of the labelled particles: read once and kept in memory where they fit, else read batch by batch."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.errors import VolumeError
from cryoclass.machine import available_memory
from cryoclass.progress import Track
from cryoclass.sources import Source, check_unchanged, fastest_order, read_many

MEMORY_SHARE = 0.25  # of the available memory that voxels may take


@dataclass(frozen=True, kw_only=True)
class KeptBoxes:
    """The particles that can be read.

    Parameters
    ----------
    source
        Where voxels come from.
    rows
        Row of each particle in ``source``, (n,), in the order that reads fastest.
    skipped
        Why a row cannot be read, for each such row.
    stack
        All voxels, (n, D, H, W), or (n, 1 + T, D, H, W) of a :class:`cryoclass.sources.TaughtSource`; None where they do not
        fit into memory.
    workers
        Threads that read.
    before
        What the source said of itself before it was read.
    """

    source: Source
    rows: NDArray[np.int64]
    skipped: dict[int, str]
    stack: Tensor | None
    workers: int = 1
    before: str = ""

    def check_unchanged(self) -> None:
        """Hold that boxes which were read again and again stayed the same; those in memory did.

        Raises
        ------
        ChangedError
            A file was replaced, cut short or removed.
        """
        if self.stack is None:
            check_unchanged(self.source, self.before)

    def read(self, places: Tensor) -> Tensor:
        """Return the voxels (b, ...) of the particles at ``places`` (b,) of ``rows``."""
        if self.stack is not None:
            return self.stack[places]
        read = read_many(self.source, self.rows[places.numpy()].tolist(), self.workers)
        return torch.from_numpy(np.stack([_still_there(row, box) for row, box in read]))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each batch of places with its voxels; the next batch is read while this one is used."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting: tuple[Tensor, Future[Tensor]] | None = None
            for places in batches:
                coming = places, reader.submit(self.read, places)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = coming
            if waiting is not None:
                yield waiting[0], waiting[1].result()


def _still_there(row: int, box: np.ndarray | str) -> np.ndarray:
    if isinstance(box, str):
        raise VolumeError(f"row {row} could be read before, but no longer: {box}")
    return box


def read_boxes(
    source: Source,
    rows: NDArray[np.integer],
    memory: int | None,
    workers: int,
    track: Track,
) -> KeptBoxes:
    """Read the particles in ``rows`` once: find the bad ones, and keep the voxels of the others where they fit.

    Parameters
    ----------
    source
        Where voxels come from.
    rows
        Row numbers.
    memory
        Bytes that voxels may take; a quarter of the available memory where None.
    workers
        Threads that read.
    track
        Hears about the progress.

    Raises
    ------
    ChangedError
        A file changed meanwhile.
    """
    before = source.fingerprint()
    budget = memory if memory is not None else int(MEMORY_SHARE * available_memory())
    stack: NDArray[np.float32] | None = None
    good: list[int] = []
    skipped: dict[int, str] = {}
    read = read_many(source, fastest_order(source, rows), workers)
    for row, box in track(read, "Reading particles", len(rows)):
        if isinstance(box, str):
            skipped[row] = box
            continue
        if not good:
            shape = (len(rows), *box.shape)
            stack = np.empty(shape, np.float32) if 4 * math.prod(shape) <= budget else None
        if stack is not None:
            stack[len(good)] = box
        good.append(row)
    check_unchanged(source, before)
    kept = None if stack is None else torch.from_numpy(stack[: len(good)])
    return KeptBoxes(
        source=source,
        rows=np.array(good, dtype=np.int64),
        skipped=skipped,
        stack=kept,
        workers=workers,
        before=before,
    )
