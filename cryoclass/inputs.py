"""Files that are read: what is no file is told at once, in words; a pipe or a device would be waited for, or read for ever."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_INSTEAD = (
    (stat.S_ISDIR, errno.EISDIR, "it is a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, no file; write what comes out of it to a file first"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, no file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, no file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, no file"),
)


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        There is none, or none that can be read; ``strerror`` says why in words.
    """
    check_file(path)
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """Return all bytes of a file; raises as :func:`open_file`."""
    with open_file(path) as file:
        return file.read()


def check_file(path: Path) -> None:
    """Raise as :func:`open_file` where there is no file: for those who hand a path to another library."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as os.path.isfile, it takes any name
    except ValueError as error:  # a NUL character, or half of one of another script: no file can be called so
        raise OSError(errno.EINVAL, "no file can have that name", str(path)) from error
    for is_so, number, words in _INSTEAD:
        if is_so(mode):
            raise OSError(number, words, str(path))


def is_no_file(path: Path) -> str:
    """Return in words what a path leads to in the place of a file; empty for a file, and where nothing is there."""
    try:
        check_file(path)
    except OSError as error:
        return (error.strerror or "") if error.errno in (errno.EINVAL, errno.EISDIR) else ""
    return ""
