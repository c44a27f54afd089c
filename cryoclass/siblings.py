"""Which of the files in a folder are tomograms: a tilt series, an aligned stack and half volumes lie beside many.

AreTomo 3 leaves the series ``TS_01.mrc`` beside ``TS_01_Vol.mrc``, IMOD from 4.11 on beside ``TS_01_rec.mrc``, older
IMOD ``TS_01.st`` beside ``TS_01.rec``. Names alone do not tell, since a tomogram may be called ``TS_01.mrc`` too: header
and neighbours decide together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryoclass.errors import VolumeError
from cryoclass.star.names import HALVES, extension_free, stem
from cryoclass.volumes.mrc import Volume, open_volume
from cryoclass.volumes.pixels import agree

_RECONSTRUCTED = re.compile(r"(_rec|_Vol)(_\d+\.\d+Apx)?$|\.rec(\.gz|\.bz2)?$", re.IGNORECASE)
_STACK = re.compile(r"_(pre)?ali$|\.st$", re.IGNORECASE)
EXTENT = 0.05  # of the thickness, by which two reconstructions of one sample may differ


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The files that are tomograms, and the tilt series that was left out beside some of them."""

    files: tuple[Path, ...]
    series: Mapping[Path, Path]


def tomograms_among(files: Iterable[Path]) -> Choice:
    """Leave out stacks, tilt series and superfluous halves, where a reconstruction lies beside them."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(stem(path.name), []).append(path)
    kept: list[Path] = []
    left_out: dict[Path, Path] = {}
    for group in groups.values():
        whole = [path for path in group if not HALVES.search(path.name)] or group
        volumes = [path for path in whole if not _matches(_STACK, path)] or whole
        reconstructed = [path for path in volumes if _matches(_RECONSTRUCTED, path)]
        series = [
            p for p in volumes if reconstructed and p not in reconstructed and _is_series(p, reconstructed[0])
        ]
        if series:
            left_out[reconstructed[0]] = series[0]
        kept += [path for path in volumes if path not in series]
    return Choice(files=tuple(sorted(kept)), series=left_out)


def tilts_beside(path: Path) -> tuple[int, Path] | None:
    """Return how many tilts a list beside a volume has, and which list; ``None`` where there is none.

    Looked at: ``.tlt``, ``.rawtlt`` (IMOD), ``.mdoc`` (SerialEM) and ``.aln`` (AreTomo) of the same name.
    """
    base = path.with_name(extension_free(path.name))
    for listing, mark in (
        (base.with_name(f"{base.name}.tlt"), r"\S"),
        (base.with_name(f"{base.name}.rawtlt"), r"\S"),
        (path.with_name(f"{path.name}.mdoc"), r"\[ZValue"),
        (base.with_name(f"{base.name}.mdoc"), r"\[ZValue"),
        (base.with_name(f"{base.name}.aln"), r"\s*[\d-]"),
    ):
        if listing.is_file():
            lines = listing.read_text("utf-8", "replace").splitlines()
            return sum(bool(re.match(rf"\s*{mark}", line)) for line in lines), listing
    return None


def _is_series(path: Path, reconstruction: Path) -> bool:
    """Whether a volume is the tilt series of a reconstruction: by its header, a list of tilts, or its thickness."""
    try:
        here, there = open_volume(path), open_volume(reconstruction)
    except VolumeError:  # said where the tomograms are opened
        return False
    tilts = tilts_beside(path)
    if here.is_image_stack and not there.is_image_stack:
        return True
    return (tilts is not None and tilts[0] == len(here.data)) or _as_wide_but_not_as_thick(here, there)


def _as_wide_but_not_as_thick(here: Volume, there: Volume) -> bool:
    if not (here.angpix and there.angpix):
        return False
    (z, _y, x), (other_z, _other_y, other_x) = (
        [volume.angpix * side for side in volume.data.shape[-3:]] for volume in (here, there)
    )
    return abs(x / other_x - 1) < EXTENT and not agree(z, other_z) and abs(z / other_z - 1) > EXTENT


def _matches(pattern: re.Pattern[str], path: Path) -> bool:
    return bool(pattern.search(path.name) or pattern.search(extension_free(path.name)))
