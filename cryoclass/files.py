"""Writing files so that nobody ever sees half of one."""

import errno
import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cryoclass.errors import OutputError
from cryoclass.inputs import way_out

TEMPORARY = ".cryoclass-"  # how the names of half-written files begin

_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("waiting", default=None)


@contextmanager
def together(last: Path, before: Callable[[Sequence[Path]], None] | None = None) -> Iterator[None]:
    """Let all files that the block writes appear at its end, one right after the other, and none where it fails.

    Parameters
    ----------
    last
        The one that says that all are there. An old one goes before the block, the new one comes after all others.
    before
        Called with the paths of all files when they are complete, before the first of them appears.

    Raises
    ------
    OutputError
        A file cannot be moved into place.
    """
    written: list[tuple[Path, Path]] = []
    try:
        last.unlink(missing_ok=True)
        token = _waiting.set(written)
        try:
            yield
        finally:
            _waiting.reset(token)
        if before is not None:
            before([path for _, path in written])
        for temporary, path in sorted(written, key=lambda item: item[1] == last):
            try:
                temporary.replace(path)
            except OSError as error:
                raise output_error(error, path) from error
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place when the block ends well, delete it otherwise.

    Within :func:`together` it is moved when that ends.

    Parameters
    ----------
    path
        The final path; its folder is made where it is missing.

    Raises
    ------
    OutputError
        The disk is full, or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _fresh_file(path)
        yield temporary
        waiting = _waiting.get()
        if waiting is None:
            temporary.replace(path)
        else:
            waiting.append((temporary, path))
            temporary = None
    except OSError as error:
        if error.filename and Path(error.filename) not in (path, path.parent, temporary):
            raise  # something that was read meanwhile
        raise output_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with LF line ends; bytes that came in undecodable go out as they came."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        out.write(text)


def same_file_at(path: Path, other: Path) -> None:
    """Let a file lie at another path too: as one file under two names where the disk can do that, else as a copy.

    Raises
    ------
    OutputError
        The other path cannot be written.
    """
    with replacing(other) as temporary:
        try:
            temporary.unlink()
            temporary.hardlink_to(path)
        except OSError:  # such as a network disk, or Windows' shares
            shutil.copyfile(path, temporary)


def stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of the last change in nanoseconds; zeros for a file that is not there."""
    try:
        facts = path.stat()
    except OSError:
        return (0, 0)
    return (facts.st_size, facts.st_mtime_ns)


def content(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Return the sha256 of values, each as Python writes it, or of the bytes where it is bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogateescape"))
        found.update(b"\0")
    return found.hexdigest()


def output_error(error: OSError, path: Path) -> OutputError:
    """Say in words why ``path`` cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full.", "Free some space, or choose another --outdir.")
    short = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of what any folder would need
    hint = way_out(error) if short else "Choose another --outdir."
    return OutputError(f"{path} cannot be written: {error.strerror or error}.", hint)


def _fresh_file(path: Path) -> Path:
    """Make an empty hidden file; the system gives it the user's usual rights, which mkstemp would not."""
    # The start tells it from everything else, and its length does not grow with that of the name.
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{path.suffix[:10]}")
    temporary.touch(exist_ok=False)
    return temporary


def sweep(folder: Path) -> None:
    """Remove what a killed run left half-written in a folder; only for those whose folder it is."""
    for old in folder.glob(f"{TEMPORARY}*"):
        old.unlink(missing_ok=True)
