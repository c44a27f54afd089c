"""What to type next: only commands that work as printed, with the words that say where the boxes come from."""

from collections.abc import Sequence
from pathlib import Path

from cryoclass.cli.options import typed
from cryoclass.jobs.opening import DEFAULT_PARTICLES, teachable
from cryoclass.settings import BoxOrigin, Cutting

Words = tuple[object, ...]

YOURS = Path("YOUR.star")  # to be typed over; nobody takes it for a file that is there


def after_boxes(star: Path) -> list[Words]:
    """Return what can be done with a table whose boxes are written: finetune only where its labels allow that."""
    teach = [("cryoclass", "finetune", star)] if teachable(star) else []
    return [*teach, ("cryoclass", "embed", star)]


def with_images(tables: Sequence[Path]) -> Path:
    """Return the first table that is still there and names images, else a name to be typed over."""
    from cryoclass.particles import read_particles

    there = (table for table in tables if table.is_file())
    return next((table for table in there if read_particles(table).has_images), YOURS)


def some_particles() -> Path:
    """Return the table that commands take by themselves in this folder, or a name to be typed over."""
    return DEFAULT_PARTICLES if DEFAULT_PARTICLES.is_file() else YOURS


def all_tasks(tasks: Sequence[str]) -> Words:
    """Return the option that asks a model for all that it does; nothing where classes are all."""
    return ("--tasks", ",".join(tasks)) if len(tasks) > 1 else ()


def same_boxes(boxes: BoxOrigin, cutting: Cutting) -> Words:
    """Return the options that open the same boxes once more."""
    return (*typed(boxes), *typed(cutting))
