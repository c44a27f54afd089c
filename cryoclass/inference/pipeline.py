"""One way from voxels to predictions, whatever the source and the engine: read ahead, compute, hand on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, VolumeError
from cryoclass.files import replacing
from cryoclass.inference.engines import Engine, Predicted
from cryoclass.progress import Track, silent
from cryoclass.subtomograms import Source


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


def batches(source: Source, batch_size: int, jobs: int) -> Iterator[Batch]:
    """Read all particles in threads, in the order that is fastest for the source, one batch ahead of its use."""

    def read(row: int) -> tuple[int, np.ndarray | str]:
        try:
            return row, source.read(row)
        except VolumeError as problem:
            return row, str(problem)

    chunks = [
        source.order[start : start + batch_size].tolist() for start in range(0, len(source.order), batch_size)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(read, row) for row in chunks[0]]
        for following in [*chunks[1:], []]:
            coming = [pool.submit(read, row) for row in following]
            yield _gather([future.result() for future in waiting], source.box)
            waiting = coming


def run(
    engine: Engine, source: Source, batch_size: int, jobs: int, track: Track = silent
) -> Iterator[tuple[Batch, Predicted | None]]:
    """Yield each batch with what the engine says of it; ``None`` where no particle of it could be read."""
    for batch in track(
        batches(source, batch_size, jobs), "predicting", len(source.order), lambda batch: batch.size
    ):
        yield batch, engine.run(batch.voxels) if len(batch.rows) else None


def predict(engine: Engine, source: Source, batch_size: int, jobs: int, track: Track = silent) -> Predictions:
    """Classify all particles.

    Raises
    ------
    ParticleError
        Not one particle could be read.
    """
    probabilities = np.zeros((len(source), len(engine.card.classes)), dtype=np.float32)
    unreadable = dict.fromkeys(
        set(range(len(source))) - set(source.order.tolist()), "its tomogram has no volume"
    )
    for batch, predicted in run(engine, source, batch_size, jobs, track):
        unreadable |= batch.unreadable
        if predicted is not None:
            probabilities[batch.rows] = predicted.probabilities
    if len(unreadable) == len(source):
        raise ParticleError(
            f"none of {len(source)} particles can be read; the first: {unreadable[min(unreadable)]}"
        )
    return Predictions(probabilities=probabilities, unreadable=unreadable)


def _gather(read: list[tuple[int, np.ndarray | str]], box: int) -> Batch:
    good = [(row, voxels) for row, voxels in read if isinstance(voxels, np.ndarray)]
    return Batch(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        voxels=np.stack([voxels for _, voxels in good]) if good else np.zeros((0, box, box, box), np.float32),
        unreadable={row: reason for row, reason in read if isinstance(reason, str)},
    )


def embed(
    engine: Engine, source: Source, path: Path, batch_size: int, jobs: int, track: Track = silent
) -> Predictions:
    """Write the embedding of all particles to a ``.npy`` file, row by row, and return the predictions beside it.

    Parameters
    ----------
    path
        The new file: float32 (n, E), in the order of the STAR file; NaN for particles that could not be read.

    Raises
    ------
    ParticleError
        Not one particle could be read.
    """
    probabilities = np.zeros((len(source), len(engine.card.classes)), dtype=np.float32)
    unreadable = dict.fromkeys(
        set(range(len(source))) - set(source.order.tolist()), "its tomogram has no volume"
    )
    with replacing(path) as temporary:
        rows: np.memmap | None = None
        for batch, predicted in run(engine, source, batch_size, jobs, track):
            unreadable |= batch.unreadable
            if predicted is None:
                continue
            if rows is None:
                rows = _mapped_nans(temporary, (len(source), predicted.embedding.shape[1]))
            rows[batch.rows], probabilities[batch.rows] = predicted.embedding, predicted.probabilities
        if rows is None:
            raise ParticleError(
                f"none of {len(source)} particles can be read; the first: {unreadable[min(unreadable)]}"
            )
        rows.flush()
    return Predictions(probabilities=probabilities, unreadable=unreadable)


def _mapped_nans(path: Path, shape: tuple[int, int]) -> np.memmap:
    """Write a ``.npy`` file of NaN and map it; a map of a file that was not written first dies on a full disk."""
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    row = np.full(shape[1], np.nan, "<f4").tobytes()
    with path.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, facts)
        for _ in range(shape[0]):
            out.write(row)
    return np.lib.format.open_memmap(path, "r+")
