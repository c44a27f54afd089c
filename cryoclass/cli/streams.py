"""Standard streams that never end a run: closed, full or unable to encode a name, they cost words and nothing else."""

import io
import os
import sys
from typing import Any, TextIO, cast


class Unfailing:
    """A text stream that says once, on another one, that it cannot be written, and then goes on without it.

    Parameters
    ----------
    stream
        What is written to.
    name
        What it is called in words.
    other
        Where its failure is said; None for nowhere. A closed pipe is no failure: its reader has seen enough.
    """

    def __init__(self, stream: TextIO, name: str, other: "Unfailing | None" = None) -> None:
        self._stream, self._name, self._other = stream, name, other

    def write(self, text: str) -> int:
        """Write as far as that is possible."""
        try:
            self._stream.write(text)
        except (OSError, ValueError) as problem:  # ValueError: somebody has closed it
            self._complain(problem)
        return len(text)

    def flush(self) -> None:
        """Flush as far as that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as problem:
            self._complain(problem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _complain(self, problem: Exception) -> None:
        other, self._other = self._other, None
        if other is not None and not isinstance(problem, BrokenPipeError):
            other.write(f"warning: {self._name} cannot be written: {problem}; the run goes on without it.\n")


def protect() -> None:
    """Let this process's standard streams fail without a consequence, from now to its very end."""
    _fill_descriptors()
    stderr = Unfailing(_able(sys.stderr), "the standard error")
    stdout = Unfailing(_able(sys.stdout), "the standard output", stderr)
    sys.stderr, sys.stdout = cast("TextIO", stderr), cast("TextIO", stdout)


def _fill_descriptors() -> None:
    """Open the null device where a standard descriptor is closed: a file of ours would take its number, and its output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _able(stream: TextIO | None) -> TextIO:
    r"""Return a stream that writes what it cannot encode as ``\u03a9``; the null device where Python found it closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - to the end of the process
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
