"""How long work says what it does without knowing about terminals.

A function with a long loop takes a :class:`Track` and iterates through it; a job takes a :class:`Listener`. The command line
passes ones that draw and print; everybody else gets :func:`silent` and a listener that writes to Python's log.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


def one(_item: object) -> int:
    """Count an item as one."""
    return 1


class Track(Protocol):
    """Wrap an iterable so that somebody sees how far it has come."""

    def __call__(
        self, items: Iterable[T], description: str, total: int | None = None, size: Callable[[T], int] = one
    ) -> Iterator[T]:
        """Yield ``items`` unchanged; ``size`` says how many of ``total`` an item stands for."""
        ...


def silent(
    items: Iterable[T],
    description: str,  # noqa: ARG001 - part of the Track protocol
    total: int | None = None,  # noqa: ARG001
    size: Callable[[T], int] = one,  # noqa: ARG001
) -> Iterator[T]:
    """Yield ``items`` and tell nobody."""
    yield from items


_log = logging.getLogger("cryoclass")


class Listener:
    """Hears what a job says while it works; this one writes it to Python's log, where anybody may listen."""

    @property
    def track(self) -> Track:
        """What long loops are passed through."""
        return silent

    def note(self, line: str) -> None:
        """Hear what was understood and what is being done."""
        _log.info(line)

    def warn(self, line: str) -> None:
        """Hear of something that is worth a look."""
        _log.warning(line)

    def tell(self, event: object) -> None:
        """Hear of an event, such as the record of an epoch or a finding; what kinds there are, the jobs say."""
        _log.info("%s", event)


TO_LOG = Listener()
