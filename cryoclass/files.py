"""Writing files so that nobody ever sees half of one."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoclass.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place when the block ends well, delete it otherwise.

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
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are for the user's group too
        temporary.replace(path)
    except OSError as error:
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


def output_error(error: OSError, path: Path) -> OutputError:
    """Say in words why ``path`` cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full.", "Free some space, or choose another --outdir.")
    return OutputError(f"{path} cannot be written: {error.strerror or error}.", "Choose another --outdir.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
