"""Disk: what is free, against what will be written."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.checks.findings import Finding, error, ok, size
from cryoclass.errors import OutputError
from cryoclass.settings import Extraction
from cryoclass.volumes.mrc import volume_bytes

if TYPE_CHECKING:
    from cryoclass.card import ModelCard


def extraction_bytes(count: int, settings: Extraction) -> int:
    """Return the bytes that ``extract`` would write for ``count`` particles."""
    return count * volume_bytes(settings.box, settings.dtype)


def outputs_bytes(count: int, card: "ModelCard") -> int:
    """Return the bytes that the stored outputs of ``count`` particles take at least; lengths that only the network knows count 0."""
    widths = [math.prod(n if isinstance(n, int) else 0 for n in axes[1:]) for axes in card.lengths.values()]
    return count * (1 + 4 * sum(widths))


def table_bytes(table: Path, count: int, classes: int) -> int:
    """Return the bytes that a table of ``count`` rows takes when columns of predictions are added."""
    return table.stat().st_size + count * 10 * (classes + 3)


def boxes_there(outdir: Path) -> int:
    """Count the boxes that an earlier, ended run has left, whose space is taken already."""
    return sum(1 for _ in outdir.glob("Subtomograms/*/*.mrc"))


def check_disk(outdir: Path, needed: int, files: int = 0, less: str = "a smaller --box") -> Iterator[Finding]:
    """Compare the free space where results shall go with what will be written: bytes, and files, which some disks count.

    ``less`` is what would need less of it.
    """
    absolute = outdir.absolute()
    there = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    words = f"{size(free)} free in {outdir}" + (f", {size(needed)} to be written" if needed else "")
    if not os.access(there, os.W_OK) or not there.is_dir():
        yield error("disk", f"{there} cannot be written to", "Choose another --outdir.", OutputError)
    elif needed > free:
        way_out = f"Free some space, choose another --outdir, or {less}."
        yield error("disk", words, way_out, OutputError)
    elif files > _free_files(there):
        words = f"{outdir}: the disk has room for {_free_files(there):.0f} more files, and {files} will be written"
        yield error("disk", words, "Remove some files, or choose another --outdir.", OutputError)
    else:
        yield ok("disk", words)


def _free_files(folder: Path) -> float:
    facts = os.statvfs(folder)
    return facts.f_favail if facts.f_files else math.inf  # a disk that has no limit says 0
