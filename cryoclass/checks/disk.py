"""Disk: what is free, against what will be written."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cryoclass.checks.findings import Finding, error, ok, size
from cryoclass.errors import OutputError
from cryoclass.settings import Extraction
from cryoclass.volumes.mrc import volume_bytes


def extraction_bytes(count: int, settings: Extraction) -> int:
    """Return the bytes that ``extract`` would write for ``count`` particles."""
    return count * volume_bytes(settings.box, settings.dtype)


def boxes_there(outdir: Path) -> int:
    """Count the boxes that an earlier, ended run has left, whose space is taken already."""
    return sum(1 for _ in outdir.glob("Subtomograms/*/*.mrc"))


def check_disk(outdir: Path, needed: int) -> Iterator[Finding]:
    """Compare the free space where results shall go with what will be written."""
    absolute = outdir.absolute()
    there = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    words = f"{size(free)} free in {outdir}" + (f", {size(needed)} to be written" if needed else "")
    if not os.access(there, os.W_OK) or not there.is_dir():
        yield error("disk", f"{there} cannot be written to", "Choose another --outdir.", OutputError)
    elif needed > free:
        way_out = "Free some space, choose another --outdir, or a smaller --box."
        yield error("disk", words, way_out, OutputError)
    else:
        yield ok("disk", words)
