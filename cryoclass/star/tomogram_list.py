"""The door to lists of tomograms: ``tomograms.star`` (RELION 4, 5, WarpTools) and RELION's lists of micrographs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from cryoclass.errors import StarError
from cryoclass.star.dialects import CENTRED, PIXELS
from cryoclass.star.document import Block, StarFile
from cryoclass.star.names import resolve
from cryoclass.star.optimisation import TOMOGRAMS, listed_file

VOLUME_COLUMNS = (
    "rlnTomoReconstructedTomogramDenoised",
    "rlnTomoDenoisedTomogram",
    "rlnTomoReconstructedTomogram",
)
HALF_COLUMNS = ("rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2")
OPTICS_COLUMNS = (
    "rlnOpticsGroupName",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnTomoTiltSeriesPixelSize",
)
UNKNOWN_SIZE = -999


@dataclass(frozen=True, kw_only=True)
class ListedTomogram:
    """What a list says of one tomogram.

    Attributes
    ----------
    name
        As in the list.
    paths
        Its volume, or its two half volumes; empty where they are not said, or do not exist.
    tilt_series_angpix
        Unbinned pixel size in angstroms.
    unbinned_size
        Size (x, y, z) in unbinned pixels.
    binning
        How often the volume is binned.
    optics
        The columns of an optics group that the list has, as text.
    """

    name: str
    paths: tuple[Path, ...]
    tilt_series_angpix: float | None = None
    unbinned_size: tuple[float, float, float] | None = None
    binning: float | None = None
    optics: dict[str, str] = field(default_factory=dict)


def read_tomogram_list(path: Path) -> list[ListedTomogram]:
    """Read a list of tomograms, or the one that an optimisation set names.

    Raises
    ------
    StarError
        The file lists no tomograms.
    """
    text = listed_file(StarFile.read(path), TOMOGRAMS)
    if any(coordinates[0] in block.labels for block in text.blocks for coordinates in (PIXELS, CENTRED)):
        raise StarError(
            f"{path} is a table of particles, no list of tomograms.", "Give a tomograms.star or a folder."
        )
    block = next((b for b in text.blocks if "rlnTomoName" in b.labels), None)
    if block is None:
        return _micrographs(text)
    names = text.column(block, "rlnTomoName")
    return [_tomogram_of_row(text, block, row, name) for row, name in enumerate(names)]


def _micrographs(text: StarFile) -> list[ListedTomogram]:
    """Read RELION's list of micrographs, which in tomography are the tomograms themselves."""
    block = next((b for b in text.blocks if "rlnMicrographName" in b.labels), None)
    if block is None:
        raise StarError(
            f"{text.path} lists no tomograms: it has neither rlnTomoName nor rlnMicrographName.",
            "Give a tomograms.star.",
        )
    names = dict.fromkeys(text.column(block, "rlnMicrographName"))
    paths = {name: resolve(name, text.path) for name in names}
    return [ListedTomogram(name=name, paths=(path,) if path else ()) for name, path in paths.items()]


def _tomogram_of_row(text: StarFile, block: Block, row: int, name: str) -> ListedTomogram:
    one = replace(block, rows=block.rows[row : row + 1])

    def said(label: str) -> str:
        cell = text.column(one, label)[0] if label in block.labels else ""
        return "" if cell in ("", "N/A", "None") else cell

    def number(label: str) -> float | None:
        return float(text.numbers(one, [label])[0, 0]) if said(label) else None

    size = tuple(number(f"rlnTomoSize{axis}") or UNKNOWN_SIZE for axis in "XYZ")
    volumes = [said(label) for label in VOLUME_COLUMNS]
    halves = [said(label) for label in HALF_COLUMNS]
    wanted = next(([v] for v in reversed(volumes) if v), halves if all(halves) else [])
    paths = tuple(path for volume in wanted if (path := resolve(volume, text.path)))
    return ListedTomogram(
        name=name,
        paths=paths if len(paths) == len(wanted) else (),  # half of a tomogram is none
        tilt_series_angpix=number("rlnTomoTiltSeriesPixelSize"),
        unbinned_size=None if UNKNOWN_SIZE in size else (size[0], size[1], size[2]),
        binning=number("rlnTomoTomogramBinning"),
        optics={label: value for label in OPTICS_COLUMNS if (value := said(label))},
    )
