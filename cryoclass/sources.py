"""Voxels by row number, whatever they come from: the protocol, the ways to combine, and the one loop that reads many."""

import hashlib
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from cryoclass.errors import ChangedError, LeftOutError, ParticleError, VolumeError
from cryoclass.files import digest
from cryoclass.volumes.contrast import Contrast, measure_contrast
from cryoclass.volumes.crop import crop
from cryoclass.volumes.pixels import agree
from cryoclass.volumes.rescale import apply_rescale, plan_rescale


class Source(Protocol):
    """Voxels by row number.

    Attributes
    ----------
    angpix
        Pixel size of the boxes in angstroms.
    box
        Side of the boxes in pixels.
    order
        Row numbers in the order that reads fastest.
    """

    angpix: float
    box: int
    order: np.ndarray

    def __len__(self) -> int:
        """Return the number of particles."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32.

        Raises
        ------
        VolumeError
            This particle has no usable box; the message says why.
        """
        ...

    def fingerprint(self) -> str:
        """Return what the boxes are, as far as that can be known without reading voxels: other boxes, another text."""
        ...


# ------------------------------------------------------------------------------------------- reading many


class Reason(str):
    """Why a row has no box.

    Attributes
    ----------
    by_rule
        The settings leave it out; else it should have been read, and is lost.
    """

    by_rule: bool

    def __new__(cls, words: object, *, by_rule: bool = False) -> "Reason":
        """Make a reason of words."""
        reason = super().__new__(cls, words)
        reason.by_rule = by_rule
        return reason


Read = tuple[int, np.ndarray | Reason]
"""A row number with its box ``[z, y, x]`` float32, or with the reason why it has none."""


def read_many(
    source: Source, rows: Iterable[int], workers: int = 1, ahead: int | None = None
) -> Iterator[Read]:
    """Read boxes in threads, in the order of ``rows``; bad ones come with a reason instead of voxels.

    Parameters
    ----------
    source
        Where the boxes come from.
    rows
        Row numbers.
    workers
        Threads that read.
    ahead
        Boxes that may be read before they are asked for; two for each thread where left out.
    """

    def read(row: int) -> Read:
        try:
            return row, source.read(row)
        except VolumeError as problem:
            return row, Reason(problem, by_rule=isinstance(problem, LeftOutError))

    coming = iter(rows)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(read, row) for row in itertools.islice(coming, ahead or 2 * workers))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(read, row) for row in itertools.islice(coming, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops asking waits for what is being read, and no more


def none_readable(count: int, reason: str) -> ParticleError:
    """Say that not one of a table's particles has a usable box."""
    return ParticleError(f"none of {count} particles can be read; the first: {reason.removesuffix('.')}.")


def lost(reasons: Mapping[int, str]) -> int:
    """Count the rows that should have been read, and could not be; a setting leaves out the others."""
    return sum(not getattr(reason, "by_rule", False) for reason in reasons.values())


def too_many_lost(lost: int, total: int, most: float, more: str = "") -> ParticleError | None:
    """Return the error with which a run ends; None where few enough particles are unreadable.

    Parameters
    ----------
    lost
        Particles that should have been read, and could not be.
    total
        All particles.
    most
        Which share of them may be lost.
    more
        A sentence on where results and reasons are.
    """
    if lost <= most * total:
        return None
    return ParticleError(
        f"{lost} of {total} particles cannot be read: {100 * lost / total:.1f} %, and --max-unreadable allows "
        f"{100 * most:g} %.{more and ' '}{more}",
        "Mend them and type the same command again, or allow more with --max-unreadable.",
    )


def check_unchanged(source: Source, before: str) -> None:
    """Hold that a source is what it was: that no file was replaced, cut short or removed since.

    Parameters
    ----------
    source
        Where the boxes come from.
    before
        What :meth:`Source.fingerprint` said.

    Raises
    ------
    ChangedError
        It says something else now.
    """
    if source.fingerprint() != before:
        raise ChangedError(
            "the volumes of the particles have changed while they were read (size or time of a file): results would mix "
            "two versions.",
            "Wait until nothing writes them any more, and type the same command again.",
        )


def fastest_order(source: Source, rows: np.ndarray) -> list[int]:
    """Return ``rows`` in the source's order; those that it does not list, which cannot be read, come last."""
    listed = source.order[np.isin(source.order, rows)]
    return [*listed.tolist(), *np.setdiff1d(rows, listed).tolist()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Some boxes of a source, read once: what is asked of all of them is judged by these.

    Attributes
    ----------
    rows
        Row numbers of those that can be used.
    problems
        Why the others cannot.
    mean
        Their mean ``[z, y, x]``.
    digest
        Hash of their voxels.
    seconds
        Time to read one.
    """

    rows: tuple[int, ...]
    problems: tuple[str, ...]
    mean: np.ndarray
    digest: str
    seconds: float

    @property
    def size(self) -> int:
        """How many were tried."""
        return len(self.rows) + len(self.problems)

    @cached_property
    def contrast(self) -> Contrast:
        """Whether the particles are bright or dark in their mean."""
        return measure_contrast(self.mean)


SAMPLE = 200  # boxes


def take_sample(source: Source, workers: int = 1, most_seconds: float = math.inf) -> Sample:
    """Read up to 200 boxes, spread over the table.

    With a limit of time they are read in a random order, so that those that were read are spread nevertheless.
    """
    rows = source.order[np.unique(np.linspace(0, len(source.order) - 1, SAMPLE).astype(int))]
    if most_seconds < math.inf:
        rows = np.random.default_rng(0).permutation(rows)
    total, good, problems = np.zeros((source.box,) * 3), [], []
    hashed, start = hashlib.sha256(), time.monotonic()
    for row, box in read_many(source, rows.tolist(), workers):
        if isinstance(box, str):
            problems.append((row, box.removesuffix(".")))
        else:
            total += box
            hashed.update(box.tobytes())
            good.append(row)
        if time.monotonic() - start > most_seconds:
            break
    return Sample(
        rows=tuple(good),
        problems=tuple(reason for _, reason in sorted(problems)),
        mean=(total / max(len(good), 1)).astype(np.float32),
        digest=hashed.hexdigest(),
        seconds=(time.monotonic() - start) / (len(good) + len(problems)),
    )


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes of a run, and what was found out about them, once.

    Attributes
    ----------
    source
        The voxels by row.
    workers
        Threads that read.
    """

    source: Source
    workers: int = 1

    @cached_property
    def sample(self) -> Sample:
        """Some of them: their contrast, and a hash of their voxels."""
        return take_sample(self.source, self.workers)

    @cached_property
    def before(self) -> str:
        """What the source said of itself when it was first asked."""
        return self.source.fingerprint()

    @property
    def fingerprint(self) -> str:
        """Hash of what the boxes are, by content: places, files, and the voxels of the sample."""
        return digest(self.before, self.sample.digest)

    def check_unchanged(self) -> None:
        """Hold that no file was replaced, cut short or removed since, as :func:`check_unchanged`."""
        check_unchanged(self.source, self.before)


# -------------------------------------------------------------------------------------------- combinators


class RescaledSource:
    """Boxes of another source, brought to another box and pixel size.

    What the new box needs beyond the old one repeats its outermost voxels.

    Parameters
    ----------
    source
        Where the boxes come from.
    box, angpix
        Side in pixels and pixel size in angstroms that are wanted; the pixel size is met within 0.1 %.
    """

    def __init__(self, source: Source, box: int, angpix: float) -> None:
        self.source, self.order = source, source.order
        self.plan = plan_rescale(box, source.angpix, angpix)
        self.box, self.angpix = box, self.plan.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        middle = self.source.box // 2
        wider = crop(self.source.read(index), (middle, middle, middle), self.plan.cut)
        return np.ascontiguousarray(apply_rescale(wider, self.plan))

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`Source`."""
        return f"{self.source.fingerprint()} {self.plan}"


class TaughtSource:
    """Boxes of a source, and behind each what is known of its voxels: ``[1 + T, z, y, x]``, the box first.

    Parameters
    ----------
    source
        Where the boxes come from.
    truths
        T further sources with the same rows and boxes.
    """

    def __init__(self, source: Source, truths: Sequence[Source]) -> None:
        self.source, self.truths = source, truths
        self.order, self.box, self.angpix = source.order, source.box, source.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return box and truths of one row; a truth that cannot be read makes it unreadable; see :class:`Source`."""
        return np.stack([self.source.read(index), *(truth.read(index) for truth in self.truths)])

    def fingerprint(self) -> str:
        """Return what boxes and truths are; see :class:`Source`."""
        return " ".join(source.fingerprint() for source in (self.source, *self.truths))


class InvertedSource:
    """Boxes of another source with their contrast flipped."""

    def __init__(self, source: Source) -> None:
        self.source, self.order, self.box, self.angpix = source, source.order, source.box, source.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        return -self.source.read(index)

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`Source`."""
        return f"{self.source.fingerprint()} inverted"


class JoinedSource:
    """Boxes of several sources, one after the other.

    Raises
    ------
    ParticleError
        Boxes or pixel sizes differ.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.order = np.concatenate([s.order + start for s, start in zip(sources, self.starts, strict=False)])
        self.box, self.angpix = sources[0].box, sources[0].angpix
        for other in sources[1:]:
            if other.box != self.box or not agree(other.angpix, self.angpix):
                raise ParticleError(
                    f"the files' boxes differ: {self.box} pixels of {self.angpix:.4g} A, and {other.box} pixels of "
                    f"{other.angpix:.4g} A.",
                    "Extract them with the same --box and --angpix.",
                )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`Source`."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[which].read(index - int(self.starts[which]))

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`Source`."""
        return " ".join(source.fingerprint() for source in self.sources)
