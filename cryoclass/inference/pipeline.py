"""One way from voxels to predictions, whatever the source and the engine: read ahead, compute, hand on."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, VolumeError
from cryoclass.files import replacing
from cryoclass.inference.engines import Engine, Predicted
from cryoclass.progress import Track, silent
from cryoclass.sources import Source


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A few particles that were read.

    Attributes
    ----------
    rows
        Row numbers (b,) of those that could be read.
    voxels
        Their boxes (b, D, H, W), float32.
    unreadable
        Reasons of the others, by row number.
    """

    rows: np.ndarray
    voxels: np.ndarray
    unreadable: dict[int, str]

    @property
    def size(self) -> int:
        """How many particles the batch stands for."""
        return len(self.rows) + len(self.unreadable)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What an engine says of all particles, in the order of the STAR file.

    Attributes
    ----------
    probabilities
        (n, K) float32; zeros for particles that could not be read.
    unreadable
        Reasons why particles could not be read, by row number.
    """

    probabilities: np.ndarray
    unreadable: dict[int, str]

    @property
    def readable(self) -> np.ndarray:
        """Row numbers of the particles that could be read."""
        keep = np.ones(len(self.probabilities), dtype=bool)
        keep[list(self.unreadable)] = False
        return np.flatnonzero(keep)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How particles stream through an engine.

    Parameters
    ----------
    batch_size
        Particles that the engine gets at once.
    jobs
        Threads that read, one batch ahead of the engine.
    track
        Hears about the progress.
    """

    batch_size: int = 32
    jobs: int = 1
    track: Track = silent


Keep = Callable[[Batch, Predicted], None]


def _forget(_batch: Batch, _predicted: Predicted) -> None:
    return


def predict(engine: Engine, source: Source, flow: Flow = Flow(), keep: Keep = _forget) -> Predictions:
    """Classify all particles.

    Parameters
    ----------
    engine, source, flow
        What computes, what is read, and how.
    keep
        Called with each batch and all that the engine says of it, for those who need more than probabilities.

    Raises
    ------
    ParticleError
        Not one particle could be read.
    """
    probabilities = np.zeros((len(source), len(engine.card.classes)), dtype=np.float32)
    missing = np.setdiff1d(np.arange(len(source)), source.order)
    unreadable = dict.fromkeys(missing.tolist(), "its tomogram has no volume")
    for batch in flow.track(batches(source, flow), "predicting", len(source.order), lambda batch: batch.size):
        unreadable |= batch.unreadable
        if len(batch.rows):
            predicted = engine.run(batch.voxels)
            probabilities[batch.rows] = predicted.probabilities
            unreadable |= _overflown(batch, predicted)
            keep(batch, predicted)
    probabilities[list(unreadable)] = 0
    if len(unreadable) == len(source):
        raise ParticleError(
            f"none of {len(source)} particles can be read; the first: {unreadable[min(unreadable)]}"
        )
    return Predictions(probabilities=probabilities, unreadable=unreadable)


def embed(engine: Engine, source: Source, path: Path, flow: Flow = Flow()) -> Predictions:
    """Write the embedding of all particles to a ``.npy`` file, row by row, and return the predictions beside it.

    Parameters
    ----------
    engine, source, flow
        As for :func:`predict`, whose errors are raised too.
    path
        The new file: float32 (n, E), in the order of the STAR file; NaN for particles that could not be read.
    """
    with replacing(path) as temporary:
        rows = _Rows(temporary, len(source))
        predictions = predict(engine, source, flow, rows.write)
        rows.flush()
    return predictions


def batches(source: Source, flow: Flow) -> Iterator[Batch]:
    """Read all particles in threads, in the order that is fastest for the source, one batch ahead of its use."""

    def read(row: int) -> tuple[int, np.ndarray | str]:
        try:
            return row, source.read(row)
        except VolumeError as problem:
            return row, str(problem)

    def submit(start: int) -> list[Future[tuple[int, np.ndarray | str]]]:
        return [pool.submit(read, row) for row in source.order[start : start + flow.batch_size].tolist()]

    with ThreadPoolExecutor(flow.jobs) as pool:
        waiting = submit(0)
        for start in range(flow.batch_size, len(source.order) + flow.batch_size, flow.batch_size):
            coming = submit(start)
            yield _gather([future.result() for future in waiting], source.box)
            waiting = coming


def _overflown(batch: Batch, predicted: Predicted) -> dict[int, str]:
    """Return a reason for each particle of which the engine says something that is no number (half precision)."""
    whole = np.isfinite(predicted.embedding).all(axis=1) & np.isfinite(predicted.probabilities).all(axis=1)
    return dict.fromkeys(batch.rows[~whole].tolist(), "the network's answer is no number; use full precision")


def _gather(read: list[tuple[int, np.ndarray | str]], box: int) -> Batch:
    good = [(row, voxels) for row, voxels in read if isinstance(voxels, np.ndarray)]
    return Batch(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        voxels=np.stack([voxels for _, voxels in good]) if good else np.zeros((0, box, box, box), np.float32),
        unreadable={row: reason for row, reason in read if isinstance(reason, str)},
    )


class _Rows:
    """A ``.npy`` file whose rows are filled in any order; made when the first batch tells how long a row is."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self.table: np.memmap | None = None

    def write(self, batch: Batch, predicted: Predicted) -> None:
        """Write the embeddings of a batch."""
        if self.table is None:
            self.table = _mapped_nans(self.path, (self.count, predicted.embedding.shape[1]))
        self.table[batch.rows] = predicted.embedding

    def flush(self) -> None:
        """Bring everything to the disk."""
        if self.table is not None:
            self.table.flush()


def _mapped_nans(path: Path, shape: tuple[int, int]) -> np.memmap:
    """Write a ``.npy`` file of NaN and map it; a map of a file that was not written first dies on a full disk."""
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    row = np.full(shape[1], np.nan, "<f4").tobytes()
    with path.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, facts)
        for _ in range(shape[0]):
            out.write(row)
    return np.lib.format.open_memmap(path, "r+")
