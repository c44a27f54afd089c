"""The one place that prints. Results go to stdout, everything else to stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cryoclass.errors import CryoclassError
from cryoclass.progress import T, one

PLAIN_SECONDS = 30.0


def _console(*, stderr: bool) -> Console:
    """Make a console anew each time, so that redirected streams are obeyed; paths are never wrapped in files."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(file=stream, width=width, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line of the result."""
    _console(stderr=False).print(escape(line))


def note(line: str) -> None:
    """Print a line about the run."""
    _console(stderr=True).print(escape(line))


def warn(line: str) -> None:
    """Print a warning."""
    _console(stderr=True).print(f"[yellow]warning:[/] {escape(line)}")


def error(problem: CryoclassError) -> None:
    """Print an error and the way out."""
    console = _console(stderr=True)
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
    if sys.stderr.isatty():
        yield from _bar(items, description, total, size)
    else:
        yield from _lines(items, description, total, size)


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
