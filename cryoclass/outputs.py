"""What a network said of each row, stored: named arrays by row, a status per row, and what all that belongs to.

A folder holds ``outputs.json`` (format, hashes of input and model, settings), ``status.npy``, ``reasons.jsonl`` and one
``NAME.npy`` for each named output that is no volume. Rows are filled in place, in any order; a row's mark comes after its numbers, so a run that was
killed goes on with the rows that have none. Everything that is written for people and for RELION starts from here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import OutputError
from cryoclass.files import output_error, stamp, write_text
from cryoclass.sources import lost
from cryoclass.volumes.mrc import volume_bytes, write_volume

FORMAT = 1
FOLDER = "outputs"  # in the folder of the results
FACTS, STATUS, REASONS = "outputs.json", "status.npy", "reasons.jsonl"
NO_NUMBER = "the network's answer is no number; use full precision"


class Status(IntEnum):
    """What became of a row."""

    NOT_YET = 0
    DONE = 1
    UNREADABLE = 2
    NOT_ASKED = 3


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What outputs belong to; two runs whose facts are equal give the same outputs.

    Attributes
    ----------
    count
        Rows of the table.
    input, model
        Hashes of the boxes and of the model.
    settings
        What else decides about the numbers, as plain values.
    """

    count: int
    input: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VolumeFiles:
    """Where outputs that are volumes lie: each row's in an MRC file of its own, which people and programs open.

    Attributes
    ----------
    paths
        File of each row, by the name of the output.
    angpix
        Pixel size in angstroms.
    box
        Side in pixels.
    """

    paths: Mapping[str, Sequence[Path]]
    angpix: float
    box: int

    @property
    def bytes_each(self) -> int:
        """Size of a file."""
        return volume_bytes(self.box, "float32")

    @property
    def still_to_write(self) -> int:
        """How many files are not there yet."""
        return sum(not path.exists() for paths in self.paths.values() for path in paths)

    def missing(self, row: int) -> bool:
        """Whether a file of a row is not there, or cut short."""
        return any(stamp(paths[row])[0] != self.bytes_each for paths in self.paths.values())

    def write(self, name: str, rows: NDArray[np.int64], volumes: NDArray[np.float32]) -> None:
        """Write an output (b, D, H, W) of some rows (b,)."""
        for row, volume in zip(rows.tolist(), volumes, strict=True):
            write_volume(self.paths[name][row], volume, self.angpix)

    def clear(self, folders: Iterable[Path]) -> None:
        """Remove what an earlier run, with other tasks or particles, has left in folders of volumes."""
        own = {path for paths in self.paths.values() for path in paths}
        for folder in folders:
            for path in folder.glob("*/*.mrc"):
                if path not in own:
                    path.unlink()
            for below in (*folder.glob("*/"), folder):
                with suppress(OSError):  # it holds something, or is not there
                    below.rmdir()

    def remove(self, rows: Iterable[int]) -> None:
        """Remove the files of rows that have none any more."""
        for paths in self.paths.values():
            for row in rows:
                paths[row].unlink(missing_ok=True)


NO_VOLUMES = VolumeFiles(paths={}, angpix=1.0, box=0)


class Outputs:
    """The outputs of all rows of a table, on the disk.

    Attributes
    ----------
    folder
        Where they lie.
    status
        :class:`Status` of each row (n,).
    reasons
        Why rows are unreadable, by row number.
    volumes
        Where those lie that are volumes.
    found
        Rows that were done before this run.
    """

    def __init__(
        self,
        folder: Path,
        status: NDArray[np.uint8],
        reasons: dict[int, str],
        volumes: VolumeFiles = NO_VOLUMES,
    ) -> None:
        self.folder, self.status, self.reasons, self.volumes = folder, status, reasons, volumes
        self.found = int((status != Status.NOT_YET).sum())
        self._arrays: dict[str, np.memmap] = {}

    @property
    def lost(self) -> int:
        """How many rows are unreadable that no setting leaves out."""
        return lost(self.reasons)

    def __len__(self) -> int:
        return len(self.status)

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.npy").exists()

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a named output of all rows (n, ...), mapped; NaN where a row is not done."""
        if name not in self._arrays:
            self._arrays[name] = np.lib.format.open_memmap(self.folder / f"{name}.npy", "r+")
        return self._arrays[name]

    @property
    def complete(self) -> bool:
        """Whether no row waits to be computed."""
        return not (self.status == Status.NOT_YET).any()

    @property
    def done(self) -> NDArray[np.int64]:
        """Numbers of the rows that are done, in rising order."""
        return np.flatnonzero(self.status == Status.DONE)

    @property
    def pending(self) -> NDArray[np.int64]:
        """Numbers of the rows that are still to be computed, in rising order."""
        return np.flatnonzero(self.status == Status.NOT_YET)

    def fill(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[np.float32]]) -> None:
        """Store what the network says of some rows.

        Parameters
        ----------
        rows
            Row numbers (b,).
        values
            Named outputs (b, ...); a row for which one is not finite becomes unreadable.

        Raises
        ------
        OutputError
            The disk is full.
        """
        finite = np.ones(len(rows), dtype=bool)
        for value in values.values():
            finite &= np.isfinite(value.reshape(len(rows), -1)).all(axis=1)
        for name, value in values.items():
            if name in self.volumes.paths:
                self.volumes.write(name, rows[finite], value[finite])
                continue
            if name not in self:
                self._create(name, value.shape[1:])
            self[name][rows] = value
        self.refuse(dict.fromkeys(rows[~finite].tolist(), NO_NUMBER))
        self.status[rows[finite]] = Status.DONE

    def refuse(self, reasons: Mapping[int, str]) -> None:
        """Mark rows as unreadable."""
        if not reasons:
            return
        try:
            with (self.folder / REASONS).open("a", encoding="utf-8") as out:
                out.writelines(map(_line, reasons.items()))
        except OSError as error:
            raise output_error(error, self.folder / REASONS) from error
        self.reasons.update(reasons)
        rows = list(reasons)
        self.status[rows] = Status.UNREADABLE
        self.volumes.remove(rows)
        for path in self.folder.glob("*.npy"):
            if path.name != STATUS:
                self[path.stem][rows] = np.nan

    def remove(self) -> None:
        """Remove everything, where there is nothing that anybody could use."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def settle(self) -> None:
        """Bring everything to the disk, the reasons in the order of the rows, however many runs it took.

        Raises
        ------
        OutputError
            The disk is full.
        """
        write_text(self.folder / REASONS, "".join(map(_line, sorted(self.reasons.items()))))
        for array in (*self._arrays.values(), self.status):
            if isinstance(array, np.memmap):
                array.flush()

    def disown(self) -> None:
        """Let this belong to nothing any more, since nobody knows which rows are right: the next run begins anew."""
        (self.folder / FACTS).unlink(missing_ok=True)

    def _create(self, name: str, shape: tuple[int, ...]) -> None:
        _write_whole(self.folder / f"{name}.npy", (len(self), *shape), np.float32(np.nan))


def open_outputs(folder: Path, facts: Facts, volumes: VolumeFiles = NO_VOLUMES) -> Outputs:
    """Return the outputs in a folder where they belong to these facts, to fill in the rest; begin anew where they do not.

    Parameters
    ----------
    folder
        Where they lie.
    facts
        What they belong to.
    volumes
        Where those lie that are volumes; a row of which one is gone is computed again.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    if _facts_of(folder) != _plain(facts):
        _begin(folder, facts)
    status = np.lib.format.open_memmap(folder / STATUS, "r+")
    # What could not be read is tried again: the user may have mended it, and to try costs little.
    status[status == Status.UNREADABLE] = Status.NOT_YET
    if volumes.paths:
        gone = [row for row in np.flatnonzero(status == Status.DONE).tolist() if volumes.missing(row)]
        status[gone] = Status.NOT_YET
    return Outputs(folder, status, {}, volumes)


def read_outputs(folder: Path) -> Outputs:
    """Return the outputs in a folder, whatever they belong to, for those who only read.

    Raises
    ------
    OutputError
        There are none, or of another format.
    """
    known = _facts_of(folder)
    if known.get("format") != FORMAT:
        raise OutputError(
            f"{folder} holds no outputs of format {FORMAT} ({FACTS} says {known.get('format')}).",
            "Run cryoclass predict or embed again.",
        )
    return Outputs(folder, np.lib.format.open_memmap(folder / STATUS, "r"), _reasons_of(folder))


Origin = Literal["computed", "reused", "continued"]


def origin_of(outputs: Outputs) -> Origin:
    """Say, of outputs that were just opened, what is left to do."""
    if not outputs.found:
        return "computed"
    return "reused" if outputs.complete else "continued"


def _plain(facts: Facts) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(facts)}, default=str))
    return content


def _facts_of(folder: Path) -> dict[str, Any]:
    """Return what the outputs in a folder belong to; empty where there are none, or half of a beginning."""
    try:
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        np.lib.format.open_memmap(folder / STATUS, "r")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _begin(folder: Path, facts: Facts) -> None:
    """Remove earlier outputs, their facts first, and lay out new ones, the facts last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS).unlink(missing_ok=True)
        for old in (folder / REASONS, *folder.glob("*.npy"), *folder.glob("*.npy.part")):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    _write_whole(folder / STATUS, (facts.count,), np.uint8(Status.NOT_YET))
    write_text(folder / FACTS, json.dumps(_plain(facts), indent=1) + "\n")


def _write_whole(path: Path, shape: tuple[int, ...], value: np.generic) -> None:
    """Write an array of one value; a map of a file that was not written first dies where the disk is full.

    The name of the half-written file is fixed, so that a run after a kill finds and replaces it.
    """
    part = path.with_name(f"{path.name}.part")
    row = np.full(shape[1:], value).tobytes()
    try:
        with part.open("wb") as out:
            facts = {"descr": value.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, facts)
            for _ in range(shape[0]):
                out.write(row)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise output_error(error, path) from error


def _line(said: tuple[int, str]) -> str:
    row, reason = said
    return json.dumps({"row": row, "reason": reason}) + "\n"


def _reasons_of(folder: Path) -> dict[int, str]:
    """Read the reasons; a last line that a kill cut off belongs to a row without a mark."""
    reasons: dict[int, str] = {}
    try:
        lines = (folder / REASONS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return reasons
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        reasons[said["row"]] = said["reason"]
    return reasons
