"""Names of files of single particles: a folder for each tomogram, and numbers in it, whatever the tomograms are called."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryoclass.star.names import stem

LONGEST_NAME = 200  # bytes


def numbered_path(folder: Path, name: str, number: int) -> Path:
    """Return the file of a particle, numbered from 1 in its tomogram's folder."""
    return folder / name / f"{name}_{number:06d}.mrc"


def row_paths(folder: Path, tomograms: Sequence[str]) -> list[Path]:
    """Return a file for each row of a table, numbered from 1 within its tomogram, in the order of the table.

    Parameters
    ----------
    folder
        Receives the tomograms' folders.
    tomograms
        Name of the tomogram of each row (n,).
    """
    names = [*dict.fromkeys(tomograms)]
    folders, counts, paths = dict(zip(names, folder_names(names), strict=True)), Counter[str](), []
    for tomogram in tomograms:
        counts[tomogram] += 1
        paths.append(numbered_path(folder, folders[tomogram], counts[tomogram]))
    assert len(set(paths)) == len(paths)  # two particles in one file would be lost  # noqa: S101
    return paths


def folder_names(tomograms: Sequence[str]) -> list[str]:
    """Return a folder name for each tomogram: its stem where that tells them apart, else its whole name, else numbered.

    Disks that take capitals for small letters, and umlauts in two spellings for one, do not mix them up.
    """
    stems = [safe_name(stem(name)) for name in tomograms]
    if len(set(map(_as_disks_see, stems))) < len(stems):  # a/TS_01.mrc and b/TS_01.mrc
        stems = [safe_name(name) for name in tomograms]
    taken: set[str] = set()
    for place, name in enumerate(stems):  # "TS 01" and TS_01
        free = next(n for n in _numbered(name) if _as_disks_see(n) not in taken)
        taken.add(_as_disks_see(free))
        stems[place] = free
    return stems


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _as_disks_see(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def safe_name(name: str) -> str:
    """Turn a tomogram name into one folder name, which a number and ``.mrc`` may follow within a disk's 255 bytes."""
    plain = re.sub(r"[^\w.+-]", "_", name)
    hidden = re.sub(r"^\.", "_", plain)  # also ".."
    return hidden.encode()[:LONGEST_NAME].decode(errors="ignore") or "tomogram"
