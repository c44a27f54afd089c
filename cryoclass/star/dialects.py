"""What kind of particle file is this? Detected by content, never by file name, and said in words.

The facts are read from the sources of RELION 3.0 to 5.0, WarpTools and M; the columns that decide are named in
:func:`detect`.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cryoclass.errors import StarError
from cryoclass.star.document import Block, StarFile
from cryoclass.star.frames import Frame
from cryoclass.star.lists import LISTED_TAG
from cryoclass.star.names import stated_angpix
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

# Template matching finds peaks at the very rim, and a shifted peak may lie beyond it.
FRACTION_REACH = 1.0  # from the centre; 0.5 is the rim
FRACTIONS_WITHIN = 0.5  # of the particles

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
    rivals
        What else they may mean by all that the file says; only the volumes can tell.
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
    rivals: tuple[Frame, ...] = ()
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
        frame = f", coordinates in {self.frames_in_words}" if self.frame else ", no coordinates"
        return f"{self.name}{frame}" + (", 2D image stacks" if self.stacks_2d else "")

    @property
    def frames_in_words(self) -> str:
        """What the coordinates count, and what else they may count; empty where there are none."""
        if self.frame is None:
            return ""
        either = ", or ".join(frame.value for frame in (self.frame, *self.rivals))
        return f"{either}: the volumes tell" if self.rivals else either


def detect(text: StarFile) -> tuple[Dialect, Rows]:
    """Say which dialect a particle file is in, and which rows are its particles.

    A table of one row that is written as a list, as starfile did before version 0.5, becomes a loop.

    Raises
    ------
    StarError
        The file holds no particles; the message says what it is instead.
    """
    text = _with_loops(text)
    blocks = particle_blocks(text)
    if not blocks:
        raise _not_particles(text)
    block = blocks[0]
    rows = Rows(text=text, block=block)
    if labels := _wrp_coordinates(block):
        return Dialect(
            name="M species",
            producer="m",
            frame=Frame.ANGSTROMS,
            coordinates=labels,
            tomogram="wrpSourceName",
        ), rows
    kind = _kind(rows)
    stacks_2d = _has_2d_stacks(rows)
    coordinates = CENTRED if CENTRED[0] in rows else PIXELS if PIXELS[0] in rows else ()
    name = kind.name
    if stacks_2d and coordinates == PIXELS and PIXELS[2] not in rows:
        name, coordinates = f"{name} single particles", ()
    for label in coordinates:
        text.index(block, label)
    return Dialect(
        name=name,
        producer=kind.producer,
        frame=kind.frames[0] if coordinates else None,
        rivals=kind.frames[1:] if coordinates else (),
        coordinates=coordinates,
        origins=next((labels for labels in (ORIGINS, OLD_ORIGINS) if rows.has_all(labels)), ()),
        tomogram=_tomogram_label(rows),
        stacks_2d=stacks_2d,
    ), rows


class _Kind(NamedTuple):
    """Name and producer of a table, and what its coordinates may count, the likeliest first."""

    name: str
    producer: Producer
    frames: tuple[Frame, ...]


def _kind(rows: Rows) -> _Kind:
    """Decide what a table with ``rln`` columns is."""
    name = rows.first(_tomogram_label(rows))
    producer: Producer = "warp" if _WARP_NAME.search(name) else "relion"
    if found := _kind_by_columns(rows, producer):
        return found
    named = (Frame.NAMED_PIXELS,) * (stated_angpix(name) is not None)
    if "rlnTomoName" in rows:
        return _kind_with_tomo_name(
            rows, producer, (*named, *(Frame.ANGSTROMS,) * name.endswith(".tomostar"))
        )
    if producer == "warp" or _WARP_IMAGE.search(rows.first("rlnImageName")):
        return _kind_of_warp(rows, named)
    return _kind_with_micrographs(rows)


def _kind_by_columns(rows: Rows, producer: Producer) -> _Kind | None:
    """Recognise tables that columns or values give away, whatever the tomograms are called."""
    if CENTRED[0] in rows:
        if set(rows.labels) <= PICKER_COLUMNS and rows.optics_table is None:
            return _Kind("RELION 5 picks", "relion", (Frame.PICKED_ANGSTROMS,))
        return _Kind("RELION 5", "relion", (Frame.CENTRED_ANGSTROMS,))
    if _are_fractions(rows):
        return _Kind("Warp template matching", "warp", (Frame.FRACTION,))
    if LISTED_TAG in rows:
        return _Kind("particle list", "relion", (Frame.TOMOGRAM_PIXELS,))
    if rows.optics_table is None and "rlnImageName" not in rows and rows.detector_in_angstroms:
        return _Kind("PyTom template matching", producer, (Frame.IMAGE_PIXELS,))
    return None


def _kind_with_tomo_name(rows: Rows, producer: Producer, rare: tuple[Frame, ...]) -> _Kind:
    """Tell RELION 4's tables, whose coordinates are unbinned, from WarpTools' and from RELION 5's annotation files.

    ``rare`` are readings that the name of a tomogram leaves open where nothing is stated.
    """
    stated, tomostar = rows.angpix is not None, Frame.ANGSTROMS in rare
    if tomostar and stated and _has_2d_stacks(rows):
        return _Kind("WarpTools 2D export", "warp", (Frame.IMAGE_PIXELS,))
    if rows.optics("rlnTomoTiltSeriesPixelSize") is not None:
        return _Kind("RELION 4", producer, (Frame.TILT_SERIES_PIXELS,))
    images = (Frame.IMAGE_PIXELS,) * (stated and "rlnImageName" not in rows)
    frames = (Frame.TILT_SERIES_PIXELS, Frame.TOMOGRAM_PIXELS, *images, *rare)
    return _Kind("RELION 4 or an annotation of RELION 5", producer, frames)


def _kind_of_warp(rows: Rows, named: tuple[Frame, ...]) -> _Kind:
    if rows.angpix is None:  # M writes angstroms and says no pixel size; so do tables whose names were edited
        return _Kind("Warp or M", "warp", (*named, Frame.ANGSTROMS, Frame.TOMOGRAM_PIXELS))
    refined = rows.optics_table is not None
    name = "RELION refinement of Warp subtomograms" if refined else "Warp 3D export"
    return _Kind(name, "warp", (Frame.IMAGE_PIXELS,))


def _kind_with_micrographs(rows: Rows) -> _Kind:
    """RELION's coordinates count pixels of the tomogram; where nothing was cut yet, a stated size may be theirs."""
    if rows.optics_table is not None or {"rlnOpticsGroup", *ORIGINS} & set(rows.labels):
        return _Kind("RELION 3.1", "relion", (Frame.TOMOGRAM_PIXELS,))
    if rows.angpix is not None and "rlnImageName" not in rows:
        return _Kind("RELION 3.0", "relion", (Frame.IMAGE_PIXELS, Frame.TOMOGRAM_PIXELS))
    return _Kind("RELION 3.0", "relion", (Frame.TOMOGRAM_PIXELS,))


def particle_blocks(text: StarFile) -> list[Block]:
    """Return the loops that have images or coordinates of particles; ``data_particles`` first, else in the file's order."""
    found = [block for block in text.blocks if block.labels and _has_particles(block)]
    return sorted(found, key=lambda block: block.name != "particles")


def _has_particles(block: Block) -> bool:
    marks = (
        "rlnImageName",
        "rlnCoordinateX",
        "rlnCenteredCoordinateXAngst",
        "wrpCoordinateX1",
        "wrpCoordinateX",
    )
    return any(mark in block for mark in marks)


def _with_loops(text: StarFile) -> StarFile:
    for place, block in enumerate(text.blocks):
        if not block.labels and block.items and (block.name == "optics" or _has_particles(block)):
            text = text.with_loop(text.blocks[place])
    return text


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
    """Whether nearly all coordinates lie between 0 and 1, as no pixels do; a few may lie a little beyond."""
    if not rows.has_all(PIXELS) or not len(rows) or "rlnImageName" in rows:
        return False
    coordinates = rows.numbers(PIXELS)
    within = ((coordinates >= 0) & (coordinates <= 1)).all(axis=1)
    near = (abs(coordinates - 0.5) <= FRACTION_REACH).all()
    return bool(near and within.mean() >= FRACTIONS_WITHIN and (coordinates % 1 != 0).any())
