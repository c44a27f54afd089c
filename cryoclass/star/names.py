"""Matching the tomogram names of a STAR file to volume files.

Seen in the wild for one and the same tomogram: ``TS_01``, ``TS_01.tomostar``, ``TS_01.mrc.tomostar``,
``rec_TS_01.mrc``, ``/abs/path/TS_01_10.00Apx.mrc``, ``tomo_TS_01.mrc_15.00Apx.mrc``, ``F:/data/TS_01.mrc`` and, for
numbered series, ``6`` for ``0006``.
"""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cryoclass.errors import ParticleError, UsageError

_EXTENSIONS = r"\.tomostar|\.mrc|\.rec|\.map|\.st|\.gz|\.bz2"
HALVES = re.compile(r"_(half[12]|EVN|ODD)(?=[._]|$)")
_OTHER_HALF = {"half1": "half2", "EVN": "ODD"}
SUFFIXES = (".mrc", ".rec", ".map", ".mrc.gz", ".mrc.bz2", ".rec.gz", ".map.gz", ".st")
_EXTENSION = re.compile(rf"({_EXTENSIONS})$", re.IGNORECASE)
# Warp's pixel size, and what programs append to the name of a series: RELION, AreTomo (_Vol, _EVN, _ODD), IMOD
_TAIL = re.compile(
    rf"({_EXTENSIONS}|_\d+\.\d+Apx|_half[12]|_data|_EVN|_ODD|_Vol|_(full_)?rec|_(pre)?ali)$", re.IGNORECASE
)
_APX = re.compile(r"_(\d+\.\d+)Apx(?=[._]|$)")
_BINNED = re.compile(r"_bin\d+$", re.IGNORECASE)


def stem(name: str) -> str:
    """Strip folders, extensions and pixel sizes from a tomogram name."""
    return _stripped(name, _TAIL)


def extension_free(name: str) -> str:
    """Strip folders and extensions from a tomogram name."""
    return _stripped(name, _EXTENSION)


def stated_angpix(name: str) -> float | None:
    """Return the pixel size in angstroms that stands in a name as Warp writes it, ``_10.00Apx``; ``None`` where none does."""
    found = _APX.search(_base(name))
    return float(found[1]) if found else None


def second_half(path: Path) -> Path | None:
    """Return where the second half volume of a first one lies; ``None`` for all other files."""
    half = HALVES.search(path.name)
    if half is None or half[1] not in _OTHER_HALF:
        return None
    return path.with_name(path.name[: half.start(1)] + _OTHER_HALF[half[1]] + path.name[half.end(1) :])


def is_guess(name: str, path: Path) -> bool:
    """Whether only a number, or nothing at all, in the name of a file is that of a tomogram."""
    return bool(name) and _without_prefix(name) != _without_prefix(path.name)


def _base(name: str) -> str:
    return unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])  # macOS takes umlauts apart


def _stripped(name: str, tail: re.Pattern[str]) -> str:
    base = _base(name)
    while (shorter := tail.sub("", base)) != base and shorter:
        base = shorter
    return base


def _without_prefix(name: str) -> str:
    return re.sub(r"^(rec|tomo)_", "", stem(name))


def _number(name: str) -> str:
    """Return the number at the end of a name, without leading zeros and binning: ``TS_006_bin4`` is ``6``."""
    numbered = _BINNED.sub("", stem(name))
    digits = re.search(r"(\d+)$", numbered)
    return str(int(digits[1])) if digits else numbered


def volume_files(folder: Path) -> list[Path]:
    """Return the volumes in a folder, sorted.

    Raises
    ------
    UsageError
        The folder holds no volume.
    """
    files = sorted(
        p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".")
    )
    if not files:
        raise UsageError(
            f"{folder} holds no tomogram ({', '.join(SUFFIXES[:3])}).", "Give the folder of the volumes."
        )
    return files


def match(names: Iterable[str], files: Iterable[Path]) -> dict[str, Path]:
    """Find the volume of each tomogram name.

    Tried in this order, each on all files: the same file name, the same without extensions, the same stem, the stem
    with a ``rec_`` or ``tomo_`` prefix, the same number apart from leading zeros.

    Returns
    -------
    dict
        Name to path, for the names that have exactly one match.

    Raises
    ------
    ParticleError
        A name fits several files equally well.
    """
    files = list(files)
    keys = (_base, extension_free, stem, _without_prefix, _number)
    tables = [(key, _by_key(files, key)) for key in keys]
    found: dict[str, Path] = {}
    for name in filter(None, dict.fromkeys(names)):
        for key, by_key in tables if stem(name).isdigit() else tables[:-1]:
            hits = by_key.get(key(name), [])
            if len(hits) > 1:
                shown = ", ".join(path.name for path in hits[:3])
                raise ParticleError(
                    f"tomogram {name} fits {len(hits)} files: {shown}.",
                    "Give --tomograms a folder with one of them.",
                )
            if hits:
                found[name] = hits[0]
                break
    return found


def _by_key(files: Iterable[Path], key: Callable[[str], str]) -> Mapping[str, list[Path]]:
    table = defaultdict(list)
    for path in files:
        table[key(path.name)].append(path)
    return table


def nearest(name: str, files: Iterable[Path]) -> str:
    """Return the file name most like ``name``, or an empty string."""
    by_stem: Mapping[str, str] = {stem(path.name): path.name for path in files}
    near = difflib.get_close_matches(stem(name), by_stem, n=1, cutoff=0.5)
    return by_stem[near[0]] if near else ""


def resolve(path: str, star: Path) -> Path | None:
    """Find a file that a STAR file names: from the current folder, the STAR's folder, and its parents."""
    relative = Path(path.replace("\\", "/"))
    folders = (Path(), star.parent, *star.absolute().parent.parents)  # an absolute path stays what it is
    spellings = dict.fromkeys(
        (str(relative), *(unicodedata.normalize(form, str(relative)) for form in ("NFC", "NFD")))
    )
    places = (folder / spelling for folder in folders for spelling in spellings)
    # os.path, since Path.is_file raises where a name is too long or a folder may not be entered
    return next((place for place in places if os.path.isfile(place)), None)  # noqa: PTH113


def project_path(path: Path) -> Path:
    """Return a path as RELION wants it: from the project folder, which is the current one, where it lies there."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
