"""What kind of particle file is this? Detected by content, never by file name, and said in words.

The facts are read from the sources of RELION 3.0 to 5.0, WarpTools and M; the columns that decide are named in
:func:`detect`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from cryoclass.errors import StarError
from cryoclass.star.document import Block, StarFile
from cryoclass.star.frames import Frame
from cryoclass.star.rows import Rows

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

    @property
    def bright(self) -> bool:
        """Whether the producer makes particles brighter than the background, as Warp and M do."""
        return self.producer in ("warp", "m")

    def in_words(self) -> str:
        """Return one sentence for people."""
        frame = f", coordinates in {self.frame.value}" if self.frame else ", no coordinates"
        return f"{self.name}{frame}" + (", 2D image stacks" if self.stacks_2d else "")


def detect(text: StarFile) -> tuple[Dialect, Rows]:
    """Say which dialect a particle file is in, and which rows are its particles.

    Raises
    ------
    StarError
        The file holds no particles; the message says what it is instead.
    """
    block = _particle_block(text)
    if block is None:
        raise _not_particles(text)
    rows = Rows(text=text, block=block)
    if labels := _wrp_coordinates(block):
        return Dialect(
            name="M species",
            producer="m",
            frame=Frame.ANGSTROMS,
            coordinates=labels,
            tomogram="wrpSourceName",
        ), rows
    name, producer, frame = _kind(rows)
    stacks_2d = _has_2d_stacks(rows)
    coordinates = CENTRED if CENTRED[0] in rows else PIXELS if PIXELS[0] in rows else ()
    if stacks_2d and coordinates == PIXELS and PIXELS[2] not in rows:
        name, coordinates = f"{name} single particles", ()
    for label in coordinates:
        text.index(block, label)
    return Dialect(
        name=name,
        producer=producer,
        frame=frame if coordinates else None,
        coordinates=coordinates,
        origins=next((labels for labels in (ORIGINS, OLD_ORIGINS) if rows.has_all(labels)), ()),
        tomogram=_tomogram_label(rows),
        stacks_2d=stacks_2d,
    ), rows


def _kind(rows: Rows) -> tuple[str, Producer, Frame]:
    """Decide name, producer and frame of a table with ``rln`` columns."""
    warp_name = bool(_WARP_NAME.search(rows.first(_tomogram_label(rows))))
    if CENTRED[0] in rows:
        if set(rows.labels) <= PICKER_COLUMNS and rows.optics_table is None:
            return "RELION 5 picks", "relion", Frame.PICKED_ANGSTROMS
        return "RELION 5", "relion", Frame.CENTRED_ANGSTROMS
    if "rlnTomoName" in rows and not warp_name:
        return "RELION 4", "relion", Frame.TILT_SERIES_PIXELS
    if _are_fractions(rows):
        return "Warp template matching", "warp", Frame.FRACTION
    if warp_name or _WARP_IMAGE.search(rows.first("rlnImageName")):
        return _warp_kind(rows)
    newer = rows.optics_table is not None or {"rlnOpticsGroup", *ORIGINS} & set(rows.labels)
    return ("RELION 3.1" if newer else "RELION 3.0"), "relion", Frame.TOMOGRAM_PIXELS


def _warp_kind(rows: Rows) -> tuple[str, Producer, Frame]:
    if rows.angpix is None:
        return "M particle export", "m", Frame.ANGSTROMS
    if "rlnTomoName" in rows:
        return "WarpTools 2D export", "warp", Frame.IMAGE_PIXELS
    refined = rows.optics_table is not None
    return (
        "RELION refinement of Warp subtomograms" if refined else "Warp 3D export",
        "warp",
        Frame.IMAGE_PIXELS,
    )


def _particle_block(text: StarFile) -> Block | None:
    """Prefer ``data_particles``; else the first loop that has images or coordinates of particles."""
    marks = {"rlnImageName", "rlnCoordinateX", "rlnCenteredCoordinateXAngst"}
    candidates = [b for b in text.blocks if b.labels and (marks & set(b.labels) or _wrp_coordinates(b))]
    return next((b for b in candidates if b.name == "particles"), candidates[0] if candidates else None)


def _not_particles(text: StarFile) -> StarError:
    labels = {label for block in text.blocks for label in (*block.labels, *block.items)}
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
        f"{text.path} holds no particles: it is {what}." if what else f"{text.path} holds no particle table.",
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


def _tomogram_label(rows: Rows) -> str:
    return next((label for label in ("rlnTomoName", "rlnMicrographName") if label in rows), "")


def _has_2d_stacks(rows: Rows) -> bool:
    general = rows.text.block("general")
    if general is not None and general.items.get("rlnTomoSubTomosAre2DStacks") == "1":
        return True
    dimensions = rows.optics("rlnImageDimensionality")
    if dimensions is not None and (dimensions == 2).any():
        return True
    return rows.first("rlnImageName").endswith(".mrcs")


def _are_fractions(rows: Rows) -> bool:
    if not rows.has_all(PIXELS) or not len(rows) or "rlnImageName" in rows:
        return False
    coordinates = rows.numbers(PIXELS)
    return bool((coordinates >= 0).all() and (coordinates <= 1).all())
