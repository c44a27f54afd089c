"""Disk: what is free, against what will be written."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cryoclass.checks.findings import Finding, error, ok, size
from cryoclass.errors import OutputError
from cryoclass.settings import Extraction

HEADER_BYTES = 1024  # of an MRC file


def extraction_bytes(count: int, settings: Extraction) -> int:
    """Return the bytes that ``extract`` would write for ``count`` particles."""
    voxel = 2 if settings.dtype == "float16" else 4
    return count * (HEADER_BYTES + voxel * settings.box**3)


def check_disk(outdir: Path, needed: int, less: str = "a smaller --box") -> Iterator[Finding]:
    """Compare the free space where results shall go with what will be written; ``less`` is what would need less of it."""
    absolute = outdir.absolute()
    there = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    words = f"{size(free)} free in {outdir}" + (f", {size(needed)} to be written" if needed else "")
    if not os.access(there, os.W_OK) or not there.is_dir():
        yield error("disk", f"{there} cannot be written to", "Choose another --outdir.", OutputError)
    elif needed > free:
        way_out = f"Free some space, choose another --outdir, or {less}."
        yield error("disk", words, way_out, OutputError)
    else:
        yield ok("disk", words)
