"""One way from voxels to stored outputs, whatever the source and the engine: read ahead, compute, store."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cryoclass.inference.engines import Engine
from cryoclass.outputs import Outputs, Status
from cryoclass.progress import Track, silent
from cryoclass.sources import Read, Reason, Source, fastest_order, none_readable, read_many
from cryoclass.tasks import task_named


@dataclass(frozen=True, kw_only=True)
class ReadBatch:
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
    unreadable: dict[int, Reason]

    @property
    def size(self) -> int:
        """How many particles the batch stands for."""
        return len(self.rows) + len(self.unreadable)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How particles stream through an engine.

    Parameters
    ----------
    batch_size
        Particles that the engine gets at once.
    workers
        Threads that read, one batch ahead of the engine.
    track
        Hears about the progress.
    """

    batch_size: int = 32
    workers: int = 1
    track: Track = silent


def compute(engine: Engine, source: Source, outputs: Outputs, flow: Flow = Flow()) -> None:
    """Compute the rows of ``outputs`` that are still to be computed.

    What a network says of a box differs in its last bits with the batch that it is in, so the batches are always those of an
    unbroken run: one of which some rows are done already is computed whole.

    Raises
    ------
    ParticleError
        Not one particle could be read.
    OutputError
        The disk is full.
    """
    follows = {name for task in engine.card.tasks for name in task_named(task).follows}
    chunks = _unfinished(fastest_order(source, np.arange(len(outputs))), outputs, flow.batch_size)
    pending = [chunk[outputs.status[chunk] == Status.NOT_YET] for chunk in chunks]
    total = sum(map(len, pending))
    stream = flow.track(batches(source, pending, flow), "predicting", total, lambda batch: batch.size)
    for chunk, batch in zip(chunks, stream, strict=True):
        outputs.refuse(batch.unreadable)
        if len(batch.rows):
            whole = _whole(source, chunk, batch, outputs, flow.workers)
            said = engine.run(whole.voxels)
            outputs.fill(whole.rows, {name: value for name, value in said.items() if name not in follows})
    outputs.settle()
    if not len(outputs.done):
        reason = outputs.reasons[min(outputs.reasons)]
        outputs.remove()
        raise none_readable(len(outputs), reason)


def batches(source: Source, chunks: Sequence[np.ndarray], flow: Flow) -> Iterator[ReadBatch]:
    """Read chunks of rows in their order, one batch ahead of its use."""
    rows = itertools.chain.from_iterable(chunk.tolist() for chunk in chunks)
    read = read_many(source, rows, flow.workers, ahead=flow.batch_size)
    for chunk in chunks:
        yield _gather(itertools.islice(read, len(chunk)), source.box)


def _unfinished(order: Sequence[int], outputs: Outputs, size: int) -> list[np.ndarray]:
    """Share all rows out over batches, and return those batches in which something is to be computed."""
    chunks = [np.array(order[start : start + size]) for start in range(0, len(order), size)]
    return [chunk for chunk in chunks if (outputs.status[chunk] == Status.NOT_YET).any()]


def _whole(source: Source, chunk: np.ndarray, read: ReadBatch, outputs: Outputs, workers: int) -> ReadBatch:
    """Return a batch with those of its rows that were done before."""
    before = outputs.status[chunk] == Status.DONE
    if not before.any():
        return read
    rows = chunk[before | np.isin(chunk, read.rows)]
    return _gather(read_many(source, rows.tolist(), workers), source.box)


def _gather(some: Iterable[Read], box: int) -> ReadBatch:
    read = list(some)
    good = [(row, voxels) for row, voxels in read if isinstance(voxels, np.ndarray)]
    return ReadBatch(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        voxels=np.stack([voxels for _, voxels in good]) if good else np.zeros((0, box, box, box), np.float32),
        unreadable={row: reason for row, reason in read if isinstance(reason, Reason)},
    )
