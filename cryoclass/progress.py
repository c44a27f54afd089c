"""How long work reports its progress without knowing about terminals.

A function with a long loop takes a :class:`Track` and iterates through it. The command line passes one that draws;
everybody else gets :func:`silent`.
"""

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
