"""What a command writes into a folder, and which files there are its own: no other file is replaced or removed.

Each folder of results holds a record of the run, ``.cryoclass.json``: the command, and the names that it has written or is about to
write. It is written before the first of them, so that whatever a kill leaves behind is known to be the run's own.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cryoclass.errors import UsageError
from cryoclass.files import output_error, sweep, together, write_text

RECORD = ".cryoclass.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Writes:
    """What a command writes into its folder.

    Attributes
    ----------
    command
        Its name.
    last
        The file that comes last and says that all is there.
    files
        The others: names, or patterns where names depend on the data.
    kept
        Those written while a run is under way, which stay when it is finished; names or patterns.
    folders
        Folders in which everything is its own.
    """

    command: str
    last: str
    files: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names and patterns of all files."""
        return (*self.files, *self.kept, self.last)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What a folder says of the run in it: names, and patterns of names; the command is empty where there was none."""

    command: str = ""
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    @classmethod
    def read(cls, folder: Path) -> "_Record":
        """Return the record of a folder; an empty one, to which nothing belongs, where there is none or it is damaged."""
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                return cls()
            names = (frozenset(map(str, content[key])) for key in ("files", "folders"))
            return cls(command=str(content["command"]), files=next(names), folders=next(names))
        except (OSError, ValueError, LookupError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        content = {
            "format": FORMAT,
            "command": self.command,
            "files": sorted(self.files),
            "folders": sorted(self.folders),
        }
        write_text(folder / RECORD, json.dumps(content, indent=1) + "\n")


class Workplace:
    """A folder that a command has to itself.

    Parameters
    ----------
    folder
        The folder.
    writes
        What the command writes there.
    """

    def __init__(self, folder: Path, writes: Writes) -> None:
        self.folder, self.writes = folder, writes
        self._record = _Record.read(folder)

    @property
    def mark(self) -> Path:
        """The file that says that a run is finished."""
        return self.folder / self.writes.last

    def check(self, inputs: Sequence[Path]) -> None:
        """Hold that nothing is replaced or removed but what this command has written.

        Parameters
        ----------
        inputs
            Files that the run reads.

        Raises
        ------
        UsageError
            An output would replace an input, the folder is another command's, or holds a file that no run wrote.
        """
        for path in inputs:
            self._check_input(path)
        other = self._record.command
        if other and other != self.writes.command:
            raise UsageError(
                f"{self.folder} holds a run of cryoclass {other}; {self.writes.command} would mix its files with those.",
                "Choose another --outdir.",
            )
        for path in self._strangers():
            raise _not_ours(path, self.writes.command)

    def sweep(self) -> None:
        """Remove what a killed run of this command left half-written, in its folder and in those below."""
        for name in self._record.folders:
            for below in (self.folder / name).glob("*/"):
                sweep(below)
            sweep(self.folder / name)
        sweep(self.folder)

    def begin(self) -> None:
        """Take the folder for this run: its names are recorded, and what says that a run is finished goes.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        fixed = {name for name in (*self.writes.files, self.writes.last) if "*" not in name}
        self._own(
            self._record.files | fixed | {*self.writes.kept}, self._record.folders | {*self.writes.folders}
        )
        try:
            self.mark.unlink(missing_ok=True)
        except OSError as problem:
            raise output_error(problem, self.mark) from problem

    def leave(self, lock: str) -> None:
        """Remove the record where nothing else was written; ``lock`` is the name of the file that goes last."""
        with suppress(OSError):
            if {path.name for path in itertools.islice(self.folder.iterdir(), 3)} <= {RECORD, lock}:
                (self.folder / RECORD).unlink(missing_ok=True)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let all files that the block writes appear at its end, the last one last; those of an earlier run go.

        Raises
        ------
        UsageError
            A file would be replaced that this command has not written.
        OutputError
            A file cannot be written.
        """
        with together(self.mark, self._before):
            yield

    def _before(self, paths: Sequence[Path]) -> None:
        """Record the names of all files that are about to appear, and remove those that an earlier run alone has written."""
        new = {path.name for path in paths if path.parent == self.folder}
        for name in sorted(new):
            if not _fits(name, self._record.files) and (self.folder / name).exists():
                raise _not_ours(self.folder / name, self.writes.command)
        kept = {name for name in self._record.files if _fits(name, self.writes.kept)}
        self._own(self._record.files | new, self._record.folders)
        for name in self._record.files - new - kept:
            (self.folder / name).unlink(missing_ok=True)
        self._own(frozenset(new | kept), self._record.folders)

    def _own(self, files: frozenset[str], folders: frozenset[str]) -> None:
        self._record = _Record(command=self.writes.command, files=files, folders=folders)
        self._record.write(self.folder)

    def _check_input(self, path: Path) -> None:
        """Hold that a file that is read lies at no place that is written."""
        here = path.absolute().parent.resolve() == self.folder.resolve()
        if here and any(path.match(pattern) for pattern in self.writes.names):
            raise UsageError(
                f"{path} is read by this run, and its results in {self.folder} would replace it.",
                "Choose another --outdir.",
            )

    def _strangers(self) -> Iterator[Path]:
        """Yield what would be written over, but is not this command's."""
        for pattern in self.writes.names:
            there = self.folder.glob(pattern) if "*" in pattern else (self.folder / pattern,)
            yield from (p for p in there if not _fits(p.name, self._record.files) and p.exists())
        for name in self.writes.folders:
            if name not in self._record.folders and (self.folder / name).exists():
                yield self.folder / name


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _not_ours(path: Path, command: str) -> UsageError:
    return UsageError(
        f"{path} was not written by a run of cryoclass {command} in this folder, and would be replaced.",
        "Choose another --outdir, or move it away.",
    )
