"""Tomograms by name: which files hold them, how large they are, and which contrast they have."""

import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from cryoclass.errors import ParticleError, StarError, UsageError, VolumeError
from cryoclass.inputs import is_no_file
from cryoclass.siblings import Choice, tomograms_among
from cryoclass.star.frames import Geometry
from cryoclass.star.names import (
    is_guess,
    match,
    nearest,
    resolve,
    second_half,
    stated_angpix,
    stem,
    volume_files,
)
from cryoclass.star.tomogram_list import ListedTomogram, read_tomogram_list
from cryoclass.volumes.mrc import Volume, open_volume, uneven_problem
from cryoclass.volumes.pixels import agree

_OPENING = threading.Lock()
NAME_ROUNDING = 0.0051  # angstroms; Warp writes two decimals


@dataclass(frozen=True, kw_only=True)
class Tomogram(ListedTomogram):
    """A tomogram as the user's files describe it; ``paths`` of two are half volumes, which are summed as RELION does.

    Attributes
    ----------
    series
        The tilt series that lies beside it under a name that it might have had; ``None`` where none does.
    """

    series: Path | None = None

    @property
    def is_guess(self) -> bool:
        """Whether the name agrees with that of the volume in a number only, or not at all."""
        return is_guess(self.name, self.paths[0])

    @property
    def named_angpix(self) -> float | None:
        """Pixel size in angstroms that the name of the volume states, as Warp's do; ``None`` where it states none."""
        return stated_angpix(self.paths[0].name)

    def open(self) -> Volume:
        """Map the volume (kept open for a few tomograms at a time)."""
        with _OPENING:  # else each reading thread would open, and unpack, a tomogram of its own
            return _open_sum(self.paths, tuple(_identity(path) for path in self.paths))

    def angpix(self, override: float | None = None) -> float:
        """Return the voxel size in angstroms: as given, the header's, what ``tomograms.star`` implies, or the file name's.

        Raises
        ------
        ParticleError, VolumeError
            Nobody says it, or header and ``tomograms.star`` differ by more than 1 %, or the header's own sizes do.
        """
        if override:
            return override
        volume = self.open()
        if volume.uneven is not None:
            raise uneven_problem(volume, "--tomogram-angpix")
        header = volume.angpix
        implied = self.binning * self.tilt_series_angpix if self.binning and self.tilt_series_angpix else None
        if header and implied and not agree(header, implied):
            raise ParticleError(
                f"{self.paths[0]}: the header says {header:g} A per voxel, but tomograms.star implies {implied:g} A "
                f"({self.tilt_series_angpix:g} A binned {self.binning:g} times).",
                "Correct one of them, or say which with --tomogram-angpix.",
            )
        known = header or implied or self.named_angpix
        if known is None:
            raise ParticleError(
                f"{self.paths[0]} does not say its pixel size (its header holds 0 or 1).",
                "Give --tomogram-angpix.",
            )
        return known

    def geometry(self, override: float | None = None) -> Geometry:
        """Return the sizes that coordinates need; ``override`` is a voxel size in angstroms."""
        z, y, x = self.open().data.shape
        return Geometry(
            shape=(x, y, z),
            angpix=self.angpix(override),
            tilt_series_angpix=self.tilt_series_angpix,
            unbinned_size=self.unbinned_size,
        )

    def is_bright(self, *, by_table: bool) -> bool:
        """Whether particles are brighter than the background: as the particles' table says, or the file's name.

        Warp inverts tilt images before it reconstructs, and names its tomograms ``*_10.00Apx.mrc``; RELION, IMOD and
        AreTomo leave protein dark.
        """
        return by_table or bool(re.search(r"_\d+\.\d+Apx\.", self.paths[0].name))


def _identity(path: Path) -> tuple[int, ...]:
    """Tell a file from another one that later lies at the same path; nothing for a file that is not there."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _open_sum(paths: tuple[Path, ...], _identities: tuple[tuple[int, ...], ...]) -> Volume:
    volumes = [replace(volume, data=volume.voxels) for volume in map(open_volume, paths)]
    for volume in volumes:
        if volume.path.suffix == ".mrcs":
            raise VolumeError(f"{volume.path} is a stack of images, no tomogram.", "Give the reconstruction.")
        if volume.data.ndim != 3:
            raise VolumeError(
                f"{volume.path} is a stack of volumes, no tomogram.", "Give one file per tomogram."
            )
    if len(volumes) == 1:
        return volumes[0]
    first, second = volumes
    if first.data.shape != second.data.shape:
        raise VolumeError(
            f"{first.path} and {second.path} are halves of one tomogram, but differ in size: "
            f"{first.data.shape} and {second.data.shape} voxels (z, y, x).",
            "Reconstruct them again.",
        )
    return replace(first, data=np.add(first.data, second.data, dtype=np.float32))


def find_tomograms(
    names: Iterable[str],
    where: Path | None,
    star: Path,
    *,
    skip_missing: bool = False,
    angpix: float | None = None,
) -> dict[str, Tomogram]:
    """Find the volume of every tomogram name.

    Parameters
    ----------
    names
        As in the particles' STAR file; empty names stand for "the only tomogram".
    where
        A folder of volumes, one volume, a ``tomograms.star`` or an optimisation set; ``None`` takes the names
        themselves as paths.
    star
        The particles' STAR file; relative paths are also tried from its folder and the parents.
    skip_missing
        Leave names without a volume out, instead of raising.
    angpix
        Voxel size in angstroms that the user says: of volumes that differ in the size in their names, it chooses.

    Raises
    ------
    UsageError
        ``where`` does not exist or holds no volume.
    ParticleError
        No name, or not every name, has a volume; the nearest file is suggested for each.
    """
    names = list(dict.fromkeys(names))
    found, files = look_up(names, where, star, angpix)
    missing = [name for name in names if name not in found]
    if missing and (not found or not skip_missing):
        raise without_volume(names, found, where, files)
    return found


def without_volume(
    names: Sequence[str], found: Mapping[str, Tomogram], where: Path | None, files: Sequence[Path]
) -> ParticleError:
    """Say which of the names have no volume, and what the nearest file is; the parts are those of :func:`look_up`."""
    missing = [name for name in names if name not in found]
    return ParticleError(_missing_words(missing, len(names), where, files), _missing_hint(found, files))


def look_up(
    names: list[str], where: Path | None, star: Path, angpix: float | None = None
) -> tuple[dict[str, Tomogram], list[Path]]:
    """Return the volumes that were found, by tomogram name, and all the files that there are to choose from.

    Parameters and errors are those of :func:`find_tomograms`, but names without a volume raise nothing.
    """
    if where is None:
        paths = {name: path for name in names if name and (path := resolve(name, star))}
        return {name: Tomogram(name=name, paths=(path,)) for name, path in paths.items()}, []
    if not where.exists():
        raise UsageError(
            f"--tomograms {where}: no such file or folder.", "Give a folder, a volume or tomograms.star."
        )
    if not where.is_dir() and (reason := is_no_file(where)):
        raise UsageError(f"--tomograms {where}: {reason}.", "Give a folder, a volume or tomograms.star.")
    if where.is_file() and where.suffix == ".star":
        listed = read_tomograms(where)
        return _match_listed(names, listed), [path for t in listed.values() for path in t.paths]
    if where.is_dir() and not any(where.glob("*.mrc*")) and (project := _of_relion_job(where)):
        return look_up(names, project, star, angpix)
    choice = tomograms_among(volume_files(where)) if where.is_dir() else Choice(files=(where,), series={})
    files = list(choice.files)
    if len(files) == 1 and len(names) == 1 and (not names[0] or where.is_file()):
        return {names[0]: Tomogram(name=names[0], paths=(files[0],))}, files
    found = match(names, _firsts([path for path in files if _of_size(path, angpix)]))
    _one_name_each(found)
    return {
        name: Tomogram(name=name, paths=_halves(path), series=choice.series.get(path))
        for name, path in found.items()
    }, files


def _of_size(path: Path, angpix: float | None) -> bool:
    """Whether a file may hold voxels of the size that the user says: by its name, which need not say one."""
    stated = stated_angpix(path.name)
    return angpix is None or stated is None or abs(stated - angpix) <= NAME_ROUNDING


def _of_relion_job(folder: Path) -> Path | None:
    """Return what a job of RELION, such as ``Tomograms/job009``, says of its tomograms."""
    candidates = (folder / "tomograms.star", folder / "tomograms")
    return next((path for path in candidates if path.exists()), None)


def _one_name_each(found: Mapping[str, Path]) -> None:
    """Refuse one file for two names, unless they are two spellings of one."""
    names_of: dict[Path, str] = {}
    for name, path in found.items():
        other = names_of.setdefault(path, name)
        if not _same_name(name, other):
            raise ParticleError(
                f"the tomogram names {other} and {name} both fit {path}, but each tomogram has a volume of its own.",
                "Give --tomograms a folder that has both, or a tomograms.star.",
            )


def _same_name(one: str, other: str) -> bool:
    """Whether two names are one in two spellings: the same stem, in folders of which one may be left out in part."""
    if stem(one) != stem(other):
        return False
    first, second = (
        [part for part in re.split(r"[/\\]", name)[:-1] if part not in ("", ".")] for name in (one, other)
    )
    shared = min(len(first), len(second))
    return not shared or first[-shared:] == second[-shared:]


def _firsts(files: list[Path]) -> list[Path]:
    """Leave out second halves whose first half is there: the two are one tomogram."""
    seconds = {second_half(path) for path in files}
    return [path for path in files if path not in seconds]


def _halves(path: Path) -> tuple[Path, ...]:
    second = second_half(path)
    return (path, second) if second is not None and second.exists() else (path,)


def read_tomograms(path: Path) -> dict[str, Tomogram]:
    """Read a ``tomograms.star`` (RELION 4, 5, WarpTools), the one that an optimisation set names, or a micrographs STAR.

    Raises
    ------
    StarError
        The file lists no tomograms, or one twice.
    """
    listed = read_tomogram_list(path)
    twice = [name for name, count in Counter(one.name for one in listed).items() if count > 1]
    if twice:
        raise StarError(
            f"{path} lists {twice[0]} twice{f', and {len(twice) - 1} other tomograms' if twice[1:] else ''}; which row "
            "is right, nobody says.",
            "Give each row a name of its own, or take one out.",
        )
    return {one.name: Tomogram(**vars(one)) for one in listed}


def _match_listed(names: list[str], listed: Mapping[str, Tomogram]) -> dict[str, Tomogram]:
    usable = {name: tomogram for name, tomogram in listed.items() if tomogram.paths}
    by_path = {Path(name): tomogram for name, tomogram in usable.items()}  # a Path drops a leading "./"
    others = match([name for name in names if name not in listed], by_path)
    found = {name: by_path[path] for name, path in others.items()}
    return {name: usable.get(name) or found[name] for name in names if name in usable or name in found}


def _missing_words(missing: list[str], total: int, where: Path | None, files: Sequence[Path]) -> str:
    first = missing[0] or "(the file has no tomogram column)"
    place = f" in {where}" if where else ""
    near = nearest(missing[0], files)
    closest = f" The nearest file is {near}." if near else ""
    return f"{len(missing)} of {total} tomograms have no volume{place}, the first is {first}.{closest}"


def _missing_hint(found: Mapping[str, Tomogram], files: Sequence[Path]) -> str:
    if not files:
        return "Give --tomograms: the folder of the volumes, one volume, or a tomograms.star."
    return "Give the right folder" + (", or --skip-missing to go on without them." if found else ".")
