"""The one place that prints. Results go to stdout, everything else to stderr.

What is printed is data: no word in it is markup, an emoji or an order to the terminal, and nothing is folded or cut, so that
paths and commands can be copied.
"""

import logging
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cryoclass.errors import CryoclassError
from cryoclass.progress import Listener, T, Track, one

PLAIN_SECONDS = 30.0
GAP = "  "  # between the columns of a table
_LEVEL_STYLE = {"ok": "green", "unknown": "magenta", "warning": "yellow", "error": "bold red"}

_watch: ContextVar[Callable[[], None] | None] = ContextVar("watch", default=None)


def _console(*, stderr: bool) -> Console:
    """Make a console anew each time, so that redirected streams are obeyed."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, soft_wrap=True)


def _print(*parts: tuple[str, str], stderr: bool = False) -> None:
    """Print pieces of text, each with its style, as one line."""
    _console(stderr=stderr).print(Text.assemble(*((_visible(text), style) for text, style in parts)))


def _visible(text: str) -> str:
    r"""Return text with what a terminal would obey, or cannot show, written as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


class _VisibleFormatter(logging.Formatter):
    """Writes log messages, which name files too, as all else is written."""

    def format(self, record: logging.LogRecord) -> str:
        return _visible(super().format(record))


def say(line: str) -> None:
    """Print a line of the result."""
    _print((line, ""))


def note(line: str) -> None:
    """Print a line about the run; RELION shows whatever a job says on stderr as an error, so there it is stdout."""
    _print((line, ""), stderr=_watch.get() is None)


def warn(line: str) -> None:
    """Print a warning."""
    _print(("warning:", "yellow"), (f" {line}", ""), stderr=True)


def say_more() -> None:
    """Show log messages from now on, and with an error where it arose (``-v``)."""
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(_VisibleFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown], force=True)


def say_less() -> None:
    """Undo :func:`say_more`; each command line starts so."""
    logging.getLogger().setLevel(logging.WARNING)


def error(problem: CryoclassError) -> None:
    """Print an error and the way out; the trace of it only where log messages are shown."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        sys.stderr.write(_visible("".join(traceback.format_exception(problem))))
    _print(("error:", "bold red"), (f" {problem}", ""), stderr=True)
    if problem.hint:
        _print(("hint:", "cyan"), (f"  {problem.hint}", ""), stderr=True)


def rows(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """Print what a command did, as a short table of two columns."""
    pairs = list(pairs)
    _print((title, "bold"))
    width = max(cell_len(_visible(key)) for key, _ in pairs)
    for key, value in pairs:
        _print((_padded(key, width), "dim"), (f"{GAP}{value}", ""))


def columns(title: str, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table with a header; the first column is text, the others are numbers."""
    texts = [[str(cell) for cell in line] for line in (header, *lines)]
    widths = [max(cell_len(_visible(cell)) for cell in column) for column in zip(*texts, strict=True)]
    _print((title, "bold"))
    for number, (first, *others) in enumerate(texts):
        numbers = zip(others, widths[1:], strict=True)
        cells = (_padded(first, widths[0]), *(_padded(cell, width, right=True) for cell, width in numbers))
        _print((GAP.join(cells), "" if number else "bold"))


def _padded(text: str, width: int, *, right: bool = False) -> str:
    """Fill up to a width on the terminal, where a letter may take two places or none."""
    text = _visible(text)
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def verdict(
    level: Literal["ok", "unknown", "warning", "error"], topic: str, words: str, way_out: str
) -> None:
    """Print a line of the doctor's: level, topic and words as columns; on a terminal, wrapped within its column."""
    console = _console(stderr=False)
    text = Text.assemble(_visible(words), ". " if way_out else "", (_visible(way_out), "cyan"))
    start = Text.assemble((f"{level:9}", _LEVEL_STYLE[level]), (f"{topic:13}", "bold"))
    width = console.width - len(start) if console.is_terminal else text.cell_len
    for line in text.wrap(console, max(width, 20)):
        console.print(start + line)
        start = Text(" " * len(start))


def next_command(*commands: Sequence[object]) -> None:
    """Print what to type next: for each command, its words."""
    for words in commands:
        _print(("next:", "dim"), (" ", ""), (for_shell(words), "bold"))


def for_shell(words: Iterable[object]) -> str:
    """Return words as one line that a shell takes apart into the same words again."""
    return " ".join(map(_quoted, words))


def _quoted(word: object) -> str:
    """Quote a word where needed; as bytes, which bash and zsh understand, where it cannot be shown."""
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    if text.isprintable() and _encodable(text):
        return shlex.quote(text)
    plain = range(ord(" "), ord("~") + 1)
    octets = (
        chr(octet) if octet in plain and chr(octet) not in "'\\" else f"\\x{octet:02x}"
        for octet in text.encode("utf-8", "surrogateescape")
    )
    return f"$'{''.join(octets)}'"


def _encodable(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def track(
    items: Iterable[T], description: str, total: int | None = None, size: Callable[[T], int] = one
) -> Iterator[T]:
    """Show progress: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""
    check = _watch.get()
    if check is not None:
        yield from _lines(_checked(items, check), description, total, size)
    elif _can_draw():
        yield from _bar(items, description, total, size)
    else:
        yield from _lines(items, description, total, size)


class Heard(Listener):
    """Says what a job says: notes and warnings, progress, and events in the words of the command.

    Parameters
    ----------
    say_event
        Called with every event.
    """

    def __init__(self, say_event: Callable[[Any], None] | None = None) -> None:
        self.say_event = say_event

    @property
    def track(self) -> Track:
        """What draws the progress of long loops."""
        return track

    def note(self, line: str) -> None:
        """Print a line about the run."""
        note(line)

    def warn(self, line: str) -> None:
        """Print a warning."""
        warn(line)

    def tell(self, event: object) -> None:
        """Say an event."""
        if self.say_event is not None:
            self.say_event(event)


@contextmanager
def watched(check: Callable[[], None]) -> Iterator[None]:
    """Call ``check``, which may raise, before each item of whatever is tracked meanwhile; draw no bars."""
    token = _watch.set(check)
    try:
        yield
    finally:
        _watch.reset(token)


def _checked(items: Iterable[T], check: Callable[[], None]) -> Iterator[T]:
    for item in items:
        check()
        yield item


def _can_draw() -> bool:
    console = _console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


def _bar(items: Iterable[T], description: str, total: int | None, size: Callable[[T], int]) -> Iterator[T]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    shown = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=_console(stderr=True), transient=True) as progress:
        task = progress.add_task(_visible(description), total=total)
        for item in items:
            yield item
            progress.advance(task, size(item))


def _lines(items: Iterable[T], description: str, total: int | None, size: Callable[[T], int]) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if now - last > PLAIN_SECONDS:
            last, rate = now, done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            note(f"{description}: {done}{f' of {total}' if total else ''}, {rate:.1f}/s{left}")
