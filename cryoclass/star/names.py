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
_APX = re.compile(r"_([0-9]+\.[0-9]+)Apx(?=[._]|$)")
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
    digits = re.search(r"[0-9]+$", numbered)
    return digits[0].lstrip("0") or "0" if digits else numbered


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
        for key, by_key in tables if re.fullmatch("[0-9]+", stem(name)) else tables[:-1]:
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


def names_meant(tables: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return, for tomogram names in several tables, what each means: equal for spellings of one tomogram.

    Names of one table mean different tomograms; so names are shortened only as far as they stay different there.
    """
    lists = [list(dict.fromkeys(names)) for names in tables]
    for key in (_without_prefix, stem, extension_free, _base):
        if all(len(set(map(key, names))) == len(names) for names in lists):
            return {name: key(name) for names in lists for name in names}
    return {name: name for names in lists for name in names}


# ------------------------------------------------------------------------------------- paths in tables

_INDEX = re.compile(r"[0-9]{1,18}@")


def split_index(name: str) -> tuple[str, str]:
    """Split the name of an image into its number in a stack with ``@``, as written or empty, and the path.

    Only digits at the very start are a number: folders may be called ``user@lab``.
    """
    index = _INDEX.match(name)
    return (index[0], name[index.end() :]) if index else ("", name)


class Finder:
    """Finds the files that a table names: from the current folder, the table's folder and its parents.

    Where the table or its folder is a symbolic link, the place it leads to counts after that. Which of these hold the
    folder of a name is looked up once per folder, so that a million names cost a look each.

    Parameters
    ----------
    star
        The table.
    """

    def __init__(self, star: Path) -> None:
        self._star = star
        self._folders: dict[str, list[str]] = {}

    def find(self, name: str) -> Path | None:
        """Return where a named file lies; ``None`` where it does not exist."""
        head, base = _split(name)
        folders, bases = self.places(head), _spellings(base)
        paths = (os.path.join(folder, form) for folder in folders for form in bases)  # noqa: PTH118 - a million times
        # os.path, since Path.is_file raises where a name is too long or a folder may not be entered
        return next((Path(path) for path in paths if os.path.isfile(path)), None)  # noqa: PTH113

    def places(self, head: str) -> list[str]:
        """Return where the folder of a name exists, in the order of the search."""
        if head not in self._folders:
            above = ["", *_above(self._star), *_above(_real(self._star))]
            self._folders[head] = [place for form in _spellings(head) for place in _there(form, above)]
        return self._folders[head]


def _split(name: str) -> tuple[str, str]:
    """Split a name into folder and file; several times faster than os.path.split, for a million names."""
    slashed = name.replace("\\", "/") if "\\" in name else name
    head, slash, base = slashed.rpartition("/")
    return head or slash, base


def resolve(path: str, star: Path) -> Path | None:
    """Find one file that a STAR file names; see :class:`Finder`."""
    return Finder(star).find(path)


def project_path(path: Path) -> Path:
    """Return a path as RELION wants it: from the project folder, which is the current one, where it lies there."""
    absolute, here = _without_dots(path), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def spelled(file: Path, table: Path) -> str:
    """Return how a table is to name a file: so that it is found from the table's place and from the project folder.

    Both have to do: RELION looks from the project folder alone, and others open the table from elsewhere.
    """
    short = project_path(file).as_posix()
    return short if _leads(short, file, table) else _without_dots(file).as_posix()


def respelled(names: Iterable[str], origin: Path, table: Path) -> dict[str, str]:
    """Return how a new table is to name those files of another one that it must name anew.

    A name that does already, and one that leads nowhere, stays as it is, byte for byte.

    Parameters
    ----------
    names
        Images (also ``n@stack``) or other files, as in the other table.
    origin, table
        Where the names were read, and where they will be written.
    """
    finder = Finder(origin)
    folders: dict[tuple[str, Path], str] = {}
    words: dict[str, str] = {}
    for name in dict.fromkeys(names):
        index, path = split_index(name)
        folder, base = _split(path)
        if not finder.places(folder):
            continue
        found = finder.find(path)
        if found is None:
            continue
        head = path[: -len(base)]
        if (head, found.parent) not in folders:
            word = path if _leads(path, found, table) else spelled(found, table)
            folders[head, found.parent] = word[: -len(base)] if word == path else word[: -len(found.name)]
        word = f"{index}{folders[head, found.parent]}{found.name}"
        if word != name:
            words[name] = word
    return words


def _leads(name: str, file: Path, table: Path) -> bool:
    """Whether a name leads to a file from the project folder, and from the table's place, wherever one stands."""
    searches = ([""], _above(table), _above(_real(table)))
    return all(_first(name, folders, file) for folders in searches)


def _first(name: str, folders: Iterable[str], file: Path) -> bool:
    """Whether a file, which need not be written yet, is what a search of that name meets first."""
    for folder in folders:
        path = Path(folder, name)
        beside = _same(path.parent, file.parent)
        if beside or path.is_file():
            return beside or _same(path, file)
    return False


def _same(path: Path, other: Path) -> bool:
    return _real(path) == _real(other)


def _above(star: Path) -> list[str]:
    """Return the folder of a file and its parents."""
    return [str(folder) for folder in (star.parent, *star.absolute().parent.parents)]


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _there(head: str, folders: Iterable[str]) -> list[str]:
    """Return the places of a folder of names that exist; an absolute one has one place."""
    if os.path.isabs(head):  # noqa: PTH117
        folders = [""]
    places = dict.fromkeys(os.path.join(folder, head) for folder in folders)  # noqa: PTH118
    return [place for place in places if not place or os.path.isdir(place)]  # noqa: PTH112


def _spellings(name: str) -> Iterable[str]:
    """Return a name as it is, and with its umlauts in one piece and taken apart, as macOS writes them."""
    if name.isascii():
        return (name,)
    return dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))


def _without_dots(path: Path) -> Path:
    """Return an absolute path without ``..``; what stands before one is looked up, since it may be a symbolic link."""
    parts = path.absolute().parts
    behind = max((place + 1 for place, part in enumerate(parts) if part == ".."), default=0)
    return Path(os.path.realpath(Path(*parts[:behind])), *parts[behind:]) if behind else Path(*parts)
