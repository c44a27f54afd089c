"""The one place that prints. Results go to stdout, everything else to stderr."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cryoclass.errors import CryoclassError
from cryoclass.progress import Listener, T, Track, one

PLAIN_SECONDS = 30.0
_LEVEL_STYLE = {"ok": "green", "unknown": "magenta", "warning": "yellow", "error": "bold red"}

_watch: ContextVar[Callable[[], None] | None] = ContextVar("watch", default=None)


def _console(*, stderr: bool) -> Console:
    """Make a console anew each time, so that redirected streams are obeyed; paths are never wrapped in files."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(file=stream, width=width, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line of the result."""
    _console(stderr=False).print(escape(line))


def note(line: str) -> None:
    """Print a line about the run; RELION shows whatever a job says on stderr as an error, so there it is stdout."""
    _console(stderr=_watch.get() is None).print(escape(line))


def warn(line: str) -> None:
    """Print a warning."""
    _console(stderr=True).print(f"[yellow]warning:[/] {escape(line)}")


def say_more() -> None:
    """Show log messages from now on, and with an error where it arose (``-v``)."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr, force=True)


def say_less() -> None:
    """Undo :func:`say_more`; each command line starts so."""
    logging.getLogger().setLevel(logging.WARNING)


def error(problem: CryoclassError) -> None:
    """Print an error and the way out; the trace of it only where log messages are shown."""
    console = _console(stderr=True)
    if logging.getLogger().isEnabledFor(logging.INFO):
        traceback.print_exception(problem)
    console.print(f"[bold red]error:[/] {escape(str(problem))}")
    if problem.hint:
        console.print(f"[cyan]hint:[/]  {escape(problem.hint)}")


def rows(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """Print what a command did, as a short table of two columns."""
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in pairs:
        table.add_row(escape(key), escape(str(value)))
    _console(stderr=False).print(table)


def verdict(
    level: Literal["ok", "unknown", "warning", "error"], topic: str, words: str, way_out: str
) -> None:
    """Print a line of the doctor's: level, topic and words as columns; on a terminal, wrapped within its column."""
    console = _console(stderr=False)
    text = Text.assemble(words, ". " if way_out else "", (way_out, "cyan"))
    start = Text.assemble((f"{level:9}", _LEVEL_STYLE[level]), (f"{topic:13}", "bold"))
    width = console.width - len(start) if console.is_terminal else len(text)
    for line in text.wrap(console, max(width, 20)):
        console.print(start + line)
        start = Text(" " * len(start))


def columns(title: str, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table with a header; the first column is text, the others are numbers."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for position, name in enumerate(header):
        table.add_column(escape(name), justify="right" if position else "left", no_wrap=True)
    for line in lines:
        table.add_row(*(escape(str(cell)) for cell in line))
    _console(stderr=False).print(table)


def next_command(*commands: str) -> None:
    """Print what to type next."""
    for command in commands:
        _console(stderr=False).print(f"[dim]next:[/] [bold]{escape(command)}[/]")


def track(
    items: Iterable[T], description: str, total: int | None = None, size: Callable[[T], int] = one
) -> Iterator[T]:
    """Show progress: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""
    check = _watch.get()
    if check is not None:
        yield from _lines(_checked(items, check), description, total, size)
    elif sys.stderr.isatty():
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
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=_console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(description), total=total)
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
