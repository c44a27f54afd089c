"""Who writes where: one run at a time in a folder, and a finished run is not written over unasked."""

import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cryoclass.errors import UsageError
from cryoclass.files import output_error
from cryoclass.records import Workplace, Writes
from cryoclass.stopping import signals_as_exits

LOCK = ".cryoclass.lock"
HEARTBEAT = 30.0  # seconds from one sign of life to the next
PATIENCE = 300.0  # seconds without one after which a run on another computer counts as gone


def check_folder(outdir: Path) -> None:
    """Hold that results can have a folder of their own there.

    Raises
    ------
    UsageError
        ``outdir`` is a file.
    """
    if outdir.exists() and not outdir.is_dir():
        raise UsageError(f"--outdir {outdir} is a file.", "Name a folder.")


@contextmanager
def claim(
    outdir: Path, writes: Writes, inputs: Sequence[Path | None] = (), *, overwrite: bool
) -> Iterator[Workplace]:
    """Keep a folder to this run for as long as the block takes, whatever ends it.

    A lock file says which process on which computer holds it. The lock of a process that is gone does not count: on
    this computer at once, on another one when it has given no sign of life for some minutes.

    Parameters
    ----------
    outdir
        Made where it is missing, and removed again where nothing was written into it.
    writes
        What the command writes there.
    inputs
        Files that the run reads, which its results must not replace; None for what was not given.
    overwrite
        Whether a finished run may be replaced.

    Raises
    ------
    UsageError
        Another run writes there, a finished one is there and ``overwrite`` is off, or as :meth:`Workplace.check`.
    OutputError
        The folder cannot be written.
    """
    check_folder(outdir)
    with signals_as_exits(), _made(outdir), _locked(outdir):
        place = Workplace(outdir, writes)
        place.check([path for path in inputs if path is not None])
        if place.mark.exists() and not overwrite:
            raise UsageError(
                f"{outdir} holds a finished run ({writes.last}).",
                "Choose another --outdir, or add --overwrite.",
            )
        place.sweep()
        try:
            yield place
        finally:
            place.leave(LOCK)


@contextmanager
def claim_run(
    outdir: Path, writes: Writes, inputs: Sequence[Path | None] = (), *, resume: bool, overwrite: bool
) -> Iterator[Workplace]:
    """Keep a folder as :func:`claim` does, for a run that goes on by itself from the checkpoints that it finds there.

    Parameters
    ----------
    outdir, writes, inputs
        As for :func:`claim`.
    resume
        Whether a finished run may be gone through again, from its last checkpoint to the same result.
    overwrite
        Whether it may be replaced.

    Raises
    ------
    UsageError, OutputError
        As :func:`claim`, or a finished run is to be gone through, and its checkpoint is not there any more.
    """
    with claim(outdir, writes, inputs, overwrite=overwrite or resume) as place:
        gone = place.mark.exists() and not any(outdir.glob("checkpoint*.pt"))
        if resume and gone and not overwrite:
            raise UsageError(
                f"{outdir} holds a finished run ({writes.last}), but no checkpoint to go on from.",
                "Choose another --outdir, or start again with --overwrite.",
            )
        yield place


@contextmanager
def claim_file(path: Path) -> Iterator[None]:
    """Keep a file to this run as :func:`claim` keeps a folder; the lock lies beside it.

    Raises
    ------
    UsageError
        Another run writes it.
    OutputError
        Its folder cannot be written.
    """
    name = f".{path.name.encode()[:100].decode(errors='ignore')}{LOCK}"
    with signals_as_exits(), _made(path.parent), _locked(path.parent, name, path):
        yield


# ------------------------------------------------------------------------------------------- the lock


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Whose a lock is.

    Attributes
    ----------
    host, pid, since
        For people.
    kernel
        Which run of which system counts these process numbers: computers may share a name, and containers too.
    started
        When the process was started, as the system counts: numbers are used again.
    token
        Of this claim alone.
    """

    host: str
    pid: int
    since: str
    kernel: str
    started: str
    token: str

    @classmethod
    def here(cls) -> "_Holder":
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            kernel=_kernel(),
            started=_started(os.getpid()),
            token=secrets.token_hex(8),
        )

    def is_gone(self, lock: Path) -> bool:
        if (self.host, self.kernel) == (socket.gethostname(), _kernel()):
            return _started(self.pid) != self.started
        return _age(lock) > PATIENCE


_UNKNOWN = _Holder(host="another computer", pid=0, since="just now", kernel="", started="", token="")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; where the block leaves those empty that were made, they go again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise output_error(problem, folder) from problem
    try:
        yield
    finally:
        with suppress(OSError):  # the first that holds something ends it
            for path in made:
                path.rmdir()


@contextmanager
def _locked(folder: Path, name: str = LOCK, what: Path | None = None) -> Iterator[None]:
    """Hold the lock of a folder, or, under a name of its own, that of a file in it."""
    lock, holder = folder / name, _Holder.here()
    try:
        while not _create(lock, json.dumps(asdict(holder))):
            _break_or_refuse(lock, what or folder)
    except OSError as problem:
        raise output_error(problem, what or lock) from problem
    ended = threading.Event()
    alive = threading.Thread(target=_show_life, args=(lock, ended), daemon=True)
    alive.start()
    try:
        yield
    finally:
        ended.set()
        alive.join()
        if _read(lock) == holder:
            lock.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    """Write a file that is not there yet; O_EXCL lets one process alone do that, on network disks too."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(number, "w", encoding="utf-8") as out:  # noqa: PTH123 - a number, no path
        out.write(text)
    return True


def _break_or_refuse(lock: Path, what: Path) -> None:
    """Remove a lock whose holder is gone; whoever does that holds a second lock, lest he remove a successor's."""
    _refuse_living(lock, what)
    guard = lock.with_suffix(".breaking")
    if not _create(guard, ""):
        if _age(guard) < PATIENCE:
            raise _refusal(what, _read(lock) or _UNKNOWN)
        guard.unlink(missing_ok=True)
        return
    try:
        _refuse_living(lock, what)
        lock.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _refuse_living(lock: Path, what: Path) -> None:
    holder = _read(lock)
    # A lock without content is being written, or was when its computer died.
    gone = _age(lock) > PATIENCE if holder is None else holder.is_gone(lock)
    if not gone and lock.exists():
        raise _refusal(what, holder or _UNKNOWN)


def _refusal(what: Path, holder: _Holder) -> UsageError:
    return UsageError(
        f"{what} is in use: process {holder.pid} on {holder.host} has written there since {holder.since}; two "
        "runs must not mix.",
        f"Choose another --outdir, or wait for that run, or end it. If its computer has died, its claim ends "
        f"{PATIENCE / 60:.0f} minutes after its last sign of life.",
    )


def _read(lock: Path) -> _Holder | None:
    try:
        return _Holder(**json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _show_life(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(lock)


def _age(path: Path) -> float:
    """Return the seconds since a file changed, by the clock of its disk: those of computers differ. 0 where it is gone."""
    clock = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        clock.unlink(missing_ok=True)


def _kernel() -> str:
    """Return what tells this run of the system, and its count of processes, from others; empty where that is not said."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - a name, no path
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, as the system counts it; empty where it is gone."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]  # macOS
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
