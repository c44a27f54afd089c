"""One way from voxels to stored outputs, whatever the source and the engine: read ahead, compute, store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cryoclass.inference.engines import Engine
from cryoclass.outputs import Outputs
from cryoclass.progress import Track, silent
from cryoclass.sources import Source, fastest_order, none_readable, read_many
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
    unreadable: dict[int, str]

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

    Raises
    ------
    ParticleError
        Not one particle could be read.
    OutputError
        The disk is full.
    """
    follows = {name for task in engine.card.tasks for name in task_named(task).follows}
    rows = fastest_order(source, outputs.pending)
    stream = flow.track(batches(source, rows, flow), "predicting", len(rows), lambda batch: batch.size)
    for batch in stream:
        outputs.refuse(batch.unreadable)
        if len(batch.rows):
            said = engine.run(batch.voxels)
            outputs.fill(batch.rows, {name: value for name, value in said.items() if name not in follows})
    outputs.flush()
    if not len(outputs.done):
        reason = outputs.reasons[min(outputs.reasons)]
        outputs.remove()
        raise none_readable(len(outputs), reason)


def batches(source: Source, rows: Sequence[int], flow: Flow) -> Iterator[ReadBatch]:
    """Read some rows in their order, one batch ahead of its use."""
    waiting: list[tuple[int, np.ndarray | str]] = []
    for number, read in enumerate(read_many(source, rows, flow.workers, ahead=flow.batch_size), 1):
        waiting.append(read)
        if len(waiting) == flow.batch_size or number == len(rows):
            yield _gather(waiting, source.box)
            waiting = []


def _gather(read: Sequence[tuple[int, np.ndarray | str]], box: int) -> ReadBatch:
    good = [(row, voxels) for row, voxels in read if isinstance(voxels, np.ndarray)]
    return ReadBatch(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        voxels=np.stack([voxels for _, voxels in good]) if good else np.zeros((0, box, box, box), np.float32),
        unreadable={row: reason for row, reason in read if isinstance(reason, str)},
    )
