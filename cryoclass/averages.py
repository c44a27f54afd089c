"""Averages of classes: the mean of their boxes, as they are and turned back to lie as the reference does."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import VolumeError
from cryoclass.files import digest, stamp
from cryoclass.poses import Poses
from cryoclass.progress import Track, silent
from cryoclass.results import class_stem
from cryoclass.sources import Reason, Source, fastest_order, read_many
from cryoclass.volumes.mrc import open_volume, write_volume
from cryoclass.volumes.turn import turned_back

TURNED = "_turned"  # stands behind the name of what was turned back

Volume = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAverage:
    """The means over the particles of one class.

    Attributes
    ----------
    number
        Of the class, from 0.
    count
        Its particles.
    volumes
        Means [z, y, x] by what they are the mean of, with ``_turned`` behind it where that was turned back first.
    """

    number: int
    count: int
    volumes: Mapping[str, Volume]


class WrittenVolumes:
    """Volumes in files, one for each row; see :class:`cryoclass.sources.Source`.

    Parameters
    ----------
    paths
        File of each row.
    box, angpix
        Side in pixels, and pixel size in angstroms.
    """

    def __init__(self, paths: Sequence[Path], box: int, angpix: float) -> None:
        self.paths, self.box, self.angpix = paths, box, angpix
        self.order = np.arange(len(paths))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:
        """Return the volume of one row, ``[z, y, x]`` float32."""
        return np.asarray(open_volume(self.paths[index]).voxels, dtype=np.float32)

    def fingerprint(self) -> str:
        """Return what the volumes are: size and time of the files."""
        return digest("written", self.box, self.angpix, *map(stamp, self.paths))


def class_averages(
    sources: Mapping[str, Source],
    assigned: NDArray[np.integer],
    poses: Poses | None = None,
    workers: int = 1,
    track: Track = silent,
) -> list[ClassAverage]:
    """Average the boxes of each class.

    Parameters
    ----------
    sources
        What to average, by name; all have the same n rows.
    assigned
        Class of each row (n,), from 0; -1 for none.
    poses
        How the particles lie in their boxes; None where nobody knows, and nothing is turned back.
    workers
        Threads that read and turn; the result does not depend on their number.
    track
        Sees the particles go by.

    Returns
    -------
    list
        Of each class that has particles, in the order of the numbers.

    Raises
    ------
    VolumeError
        A box cannot be read: a mean of the others would be that of another class.
    """
    means = {name: _means(source, assigned, poses, workers, track) for name, source in sources.items()}
    return [
        ClassAverage(
            number=number,
            count=int((assigned == number).sum()),
            volumes={
                name + suffix: mean
                for name, found in means.items()
                for suffix, mean in zip(("", TURNED), found[number], strict=False)
            },
        )
        for number in np.unique(assigned[assigned >= 0]).tolist()
    ]


def write_averages(
    folder: Path, averages: Sequence[ClassAverage], classes: Sequence[str], angpix: float
) -> list[Path]:
    """Write ``class001_NAME_raw.mrc`` ... into a folder of their own, and remove what an earlier run has left there.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    for old in folder.glob("*.mrc"):
        old.unlink()
    with suppress(OSError):  # it holds something else, or is not there
        folder.rmdir()
    written = []
    for average in averages:
        for name, volume in average.volumes.items():
            written.append(folder / f"{class_stem(average.number, classes[average.number])}_{name}.mrc")
            write_volume(written[-1], volume, angpix)
    return written


def _means(
    source: Source, assigned: NDArray[np.integer], poses: Poses | None, workers: int, track: Track
) -> dict[int, Volume]:
    """Return the mean of each class, and that of what was turned back behind it: ``[1 or 2, z, y, x]``; one pass."""
    rows = fastest_order(source, np.flatnonzero(assigned >= 0))
    counts = np.bincount(assigned[assigned >= 0])
    sums = {
        number: np.zeros((1 if poses is None else 2, *(source.box,) * 3))
        for number in np.flatnonzero(counts).tolist()
    }
    read = read_many(source if poses is None else _Upright(source, poses), rows, workers)
    for row, volumes in track(read, "averaging", len(rows)):
        if isinstance(volumes, Reason):
            raise VolumeError(f"row {row + 1} cannot be averaged: {volumes}")
        sums[int(assigned[row])] += volumes
    return {number: (total / counts[number]).astype(np.float32) for number, total in sums.items()}


class _Upright:
    """Boxes of a source, and behind each the same turned back: ``[2, z, y, x]``, in the threads that read."""

    def __init__(self, source: Source, poses: Poses) -> None:
        self.source, self.poses = source, poses
        self.order, self.box, self.angpix = source.order, source.box, source.angpix

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return both of one row; see :class:`cryoclass.sources.Source`."""
        box = self.source.read(index)
        offset = self.poses.offsets[index] / self.angpix
        return np.stack([box, turned_back(box, self.poses.rotations[index], offset)])

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`cryoclass.sources.Source`."""
        return self.source.fingerprint()
