"""Files that are read: what is no file is told at once, in words; a pipe or a device would be waited for, or read for ever."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from cryoclass.errors import CryoclassError

_INSTEAD = (
    (stat.S_ISDIR, errno.EISDIR, "it is a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, no file; write what comes out of it to a file first"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, no file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, no file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, no file"),
)


WAYS_OUT = {
    errno.EMFILE: "Allow more open files (ulimit -n 1024), or use fewer readers: a smaller -j.",
    errno.ENFILE: "The computer has too many open files; end other programs.",
    errno.ENAMETOOLONG: "Use a shorter name; most disks take 255 bytes.",
    errno.EACCES: "Ask for the right to it, or choose another place.",
    errno.EPERM: "Ask for the right to it, or choose another place.",
    errno.ENOSPC: "Free some space, or choose another place; a disk may also have no room for more files (df -i).",
    errno.EDQUOT: "Your quota is used up: free some space, or choose another place.",
    errno.ENOMEM: "Use a smaller -b/--batch-size, or fewer readers: a smaller -j.",
    errno.EIO: "The disk has failed to read or write; try again, and another disk.",
    errno.ESTALE: "The network disk has lost the file; try again.",
}


def way_out(error: OSError) -> str:
    """Return what can be done about what the system says."""
    return WAYS_OUT.get(error.errno or 0, "Look at the path and at its folder.")


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        There is none, or none that can be read; ``strerror`` says why in words.
    CryoclassError
        As :func:`blame`.
    """
    check_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        blame(error, path)
        raise


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


def blame(error: OSError, path: Path) -> None:
    """Raise a CryoclassError where an error is the computer's: without handles or memory any file would be met with it.

    Else a sound particle would count as unreadable, and the run would go on without it.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise CryoclassError(f"{path} cannot be read: {error.strerror}.", way_out(error)) from error


def is_no_file(path: Path) -> str:
    """Return in words what a path leads to in the place of a file; empty for a file, and where nothing is there."""
    try:
        check_file(path)
    except OSError as error:
        return (error.strerror or "") if error.errno in (errno.EINVAL, errno.EISDIR) else ""
    return ""
