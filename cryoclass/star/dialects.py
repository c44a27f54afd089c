"""What kind of particle file is this? Detected by content, never by file name, and said in words.

The facts are read from the sources of RELION 3.0 to 5.0, WarpTools and M; the columns that decide are named in
:func:`detect`.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import numpy as np

from cryoclass.errors import StarError
from cryoclass.star.document import Block, StarFile

Producer = Literal["relion", "warp", "m"]
Labels3 = tuple[str, str, str]

PIXELS: Labels3 = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED: Labels3 = (
    "rlnCenteredCoordinateXAngst",
    "rlnCenteredCoordinateYAngst",
    "rlnCenteredCoordinateZAngst",
)
ORIGINS: Labels3 = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
OLD_ORIGINS: Labels3 = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
ORIENTATION: Labels3 = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")

# What RELION 5's picker writes, and nothing more. It centres with S/2 - 1, while all else in RELION reads with S/2
# (tomography_python_programs/get_particle_poses/particles.py against jaz/tomography/particle_set.cpp).
PICKER_COLUMNS = {"rlnTomoName", *CENTRED, *ORIENTATION, "rlnAngleTiltPrior", "rlnAnglePsiPrior"}

_WARP_NAME = re.compile(r"\.tomostar$|_\d+\.\d+Apx(\.mrc)?$")
_WARP_IMAGE = re.compile(r"_\d+(\.\d+)?_?A\.mrc$|_\d+\.\d+A\.mrc$")


class Frame(Enum):
    """What the numbers of the coordinate columns count, and from where."""

    TOMOGRAM_PIXELS = "pixels of the tomogram, from its first voxel"
    TILT_SERIES_PIXELS = "unbinned pixels of the tilt series, from the first voxel"
    IMAGE_PIXELS = "pixels of the exported image size, from the first voxel"
    CENTRED_ANGSTROMS = "angstroms from the centre of the tomogram"
    PICKED_ANGSTROMS = "angstroms from one unbinned pixel before the centre (as RELION 5's picker writes)"
    ANGSTROMS = "angstroms from the first voxel"
    FRACTION = "fractions (0 to 1) of the tomogram's size"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A kind of particle file.

    Attributes
    ----------
    name
        In words, such as ``RELION 3.1``.
    producer
        Whose volumes the file speaks of; decides the contrast.
    frame
        Meaning of the coordinates; ``None`` where the file has none.
    coordinates, origins
        Column names for x, y, z; empty where the file has none.
    tomogram
        Column that names the tomogram; empty where there is none.
    stacks_2d
        Whether the images are stacks of tilt images, no volumes.
    """

    name: str
    producer: Producer
    frame: Frame | None
    coordinates: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    tomogram: str = ""
    stacks_2d: bool = False

    def in_words(self) -> str:
        """Return one sentence for people."""
        frame = f", coordinates in {self.frame.value}" if self.frame else ", no coordinates"
        return f"{self.name}{frame}" + (", 2D image stacks" if self.stacks_2d else "")


def detect(star: StarFile) -> tuple[Dialect, Block]:
    """Say which dialect a particle file is in, and which block holds the particles.

    Raises
    ------
    StarError
        The file holds no particles; the message says what it is instead.
    """
    block = _particle_block(star)
    if block is None:
        raise _not_particles(star)
    if _wrp_coordinates(block):
        labels = _wrp_coordinates(block)
        return Dialect(
            name="M species",
            producer="m",
            frame=Frame.ANGSTROMS,
            coordinates=labels,
            tomogram="wrpSourceName",
        ), block
    name, producer, frame = _kind(star, block)
    stacks_2d = _has_2d_stacks(star, block)
    coordinates = CENTRED if CENTRED[0] in block else PIXELS if PIXELS[0] in block else ()
    if stacks_2d and coordinates == PIXELS and PIXELS[2] not in block.labels:
        name, coordinates = f"{name} single particles", ()
    for label in coordinates:
        star.index(block, label)
    return Dialect(
        name=name,
        producer=producer,
        frame=frame if coordinates else None,
        coordinates=coordinates,
        origins=_origins(block),
        tomogram=_tomogram_label(block),
        stacks_2d=stacks_2d,
    ), block


def image_angpix(star: StarFile, block: Block) -> np.ndarray | None:
    """Return the pixel size in angstroms of each row's image (rows,), or ``None`` where the file says none.

    The optics group's ``rlnImagePixelSize`` comes first, then the row's ``rlnPixelSize``, then
    ``10000 * rlnDetectorPixelSize / rlnMagnification``, then the optics group's ``rlnMicrographPixelSize``.
    """
    for label in ("rlnImagePixelSize", "rlnPixelSize", None, "rlnMicrographPixelSize"):
        if label is None:
            values = _magnified_pixel(star, block)
        elif label in block.labels:
            values = star.numbers(block, [label])[:, 0]
        else:
            values = optics_column(star, block, label)
        if values is not None and len(values) and (values > 0).all():
            return values
    return None


def optics_column(star: StarFile, block: Block, label: str) -> np.ndarray | None:
    """Return a number of each row's optics group (rows,), or ``None`` where the file has no such column.

    Raises
    ------
    StarError
        A row names an optics group that the optics table does not hold.
    """
    optics = star.block("optics")
    if optics is None or label not in optics.labels or "rlnOpticsGroup" not in block.labels:
        return None
    names, values = _groups(star, optics), star.numbers(optics, [label])[:, 0]
    by_group = dict(zip(names, values, strict=True))
    groups = _groups(star, block)
    missing = next((row for row, group in enumerate(groups) if group not in by_group), None)
    if missing is not None:
        raise StarError(
            f"{star.path}, line {block.rows[missing] + 1}: optics group {groups[missing]} is not in data_optics, "
            f"which has {', '.join(names)}.",
            "Mend the column rlnOpticsGroup.",
        )
    return np.array([by_group[group] for group in groups])


def _groups(star: StarFile, block: Block) -> list[str]:
    """Return the optics groups; ``1.000000``, as some programs write, is ``1``."""
    cells = star.column(block, "rlnOpticsGroup")
    whole = {cell: re.sub(r"\.0*$", "", cell) for cell in set(cells)}
    return [whole[cell] for cell in cells]


def _kind(star: StarFile, block: Block) -> tuple[str, Producer, Frame]:
    """Decide name, producer and frame of a table with ``rln`` columns."""
    warp_name = bool(_WARP_NAME.search(_first_cell(star, block, _tomogram_label(block))))
    if CENTRED[0] in block.labels:
        if set(block.labels) <= PICKER_COLUMNS and star.block("optics") is None:
            return "RELION 5 picks", "relion", Frame.PICKED_ANGSTROMS
        return "RELION 5", "relion", Frame.CENTRED_ANGSTROMS
    if "rlnTomoName" in block.labels and not warp_name:
        return "RELION 4", "relion", Frame.TILT_SERIES_PIXELS
    if _are_fractions(star, block):
        return "Warp template matching", "warp", Frame.FRACTION
    if warp_name or _WARP_IMAGE.search(_first_cell(star, block, "rlnImageName")):
        return _warp_kind(star, block)
    newer = star.block("optics") is not None or {"rlnOpticsGroup", *ORIGINS} & set(block.labels)
    return ("RELION 3.1" if newer else "RELION 3.0"), "relion", Frame.TOMOGRAM_PIXELS


def _warp_kind(star: StarFile, block: Block) -> tuple[str, Producer, Frame]:
    if image_angpix(star, block) is None:
        return "M particle export", "m", Frame.ANGSTROMS
    if "rlnTomoName" in block.labels:
        return "WarpTools 2D export", "warp", Frame.IMAGE_PIXELS
    refined = star.block("optics") is not None
    return (
        "RELION refinement of Warp subtomograms" if refined else "Warp 3D export",
        "warp",
        Frame.IMAGE_PIXELS,
    )


def _particle_block(star: StarFile) -> Block | None:
    """Prefer ``data_particles``; else the first loop that has images or coordinates of particles."""
    marks = {"rlnImageName", "rlnCoordinateX", "rlnCenteredCoordinateXAngst"}
    candidates = [b for b in star.blocks if b.labels and (marks & set(b.labels) or _wrp_coordinates(b))]
    return next((b for b in candidates if b.name == "particles"), candidates[0] if candidates else None)


def _not_particles(star: StarFile) -> StarError:
    labels = {label for block in star.blocks for label in (*block.labels, *block.items)}
    kinds = [
        ("rlnTomoParticlesFile", "an optimisation set"),
        ("rlnTomoTiltSeriesPixelSize", "a list of tomograms; give it with --tomograms"),
        ("rlnJobTypeLabel", "a RELION job"),
        ("rlnPipeLineJobCounter", "a RELION pipeline"),
        ("wrpMovieName", "a Warp tilt series (.tomostar)"),
        ("orig_x", "a STOPGAP motive list; convert it to RELION's columns first"),
        ("rlnJobType", "a RELION job"),
    ]
    what = next((words for label, words in kinds if label in labels), None)
    shown = ", ".join(sorted(labels)[:6])
    return StarError(
        f"{star.path} holds no particles: it is {what}." if what else f"{star.path} holds no particle table.",
        f"A particle table has rlnImageName or rlnCoordinateX/Y/Z; found {shown or 'no columns'}.",
    )


def _wrp_coordinates(block: Block) -> tuple[str, ...]:
    """Return M's coordinate columns; with several temporal samples, the first."""
    for labels in (
        ("wrpCoordinateX1", "wrpCoordinateY1", "wrpCoordinateZ1"),
        ("wrpCoordinateX", "wrpCoordinateY", "wrpCoordinateZ"),
    ):
        if labels[0] in block.labels:
            return labels
    return ()


def _origins(block: Block) -> tuple[str, ...]:
    return next(
        (labels for labels in (ORIGINS, OLD_ORIGINS) if all(label in block.labels for label in labels)), ()
    )


def _tomogram_label(block: Block) -> str:
    return next((label for label in ("rlnTomoName", "rlnMicrographName") if label in block.labels), "")


def _has_2d_stacks(star: StarFile, block: Block) -> bool:
    general = star.block("general")
    if general is not None and general.items.get("rlnTomoSubTomosAre2DStacks") == "1":
        return True
    dimensions = optics_column(star, block, "rlnImageDimensionality")
    if dimensions is not None and (dimensions == 2).any():
        return True
    return _first_cell(star, block, "rlnImageName").endswith(".mrcs")


def _are_fractions(star: StarFile, block: Block) -> bool:
    if not all(label in block.labels for label in PIXELS) or not len(block) or "rlnImageName" in block.labels:
        return False
    coordinates = star.numbers(block, PIXELS)
    return bool((coordinates >= 0).all() and (coordinates <= 1).all())


def _magnified_pixel(star: StarFile, block: Block) -> np.ndarray | None:
    labels = ("rlnDetectorPixelSize", "rlnMagnification")  # micrometres, dimensionless
    if not all(label in block.labels for label in labels):
        return None
    detector, magnification = star.numbers(block, labels).T
    return None if (magnification <= 0).any() else 10_000 * detector / magnification


def _first_cell(star: StarFile, block: Block, label: str) -> str:
    if label not in block.labels or not len(block):
        return ""
    return star.column(replace(block, rows=block.rows[:1]), label)[0]
