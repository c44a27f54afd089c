"""The way out of an extraction: the user's table with the rows that were cut, and everything that describes their boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoclass.star.dialects import CENTRED, ORIGINS, PIXELS
from cryoclass.star.document import StarFile
from cryoclass.star.frames import Frame
from cryoclass.star.particle_file import ParticleFile
from cryoclass.star.rows import GROUP, Rows
from cryoclass.star.tables import tables_text
from cryoclass.star.tomogram_list import OPTICS_COLUMNS

OFFSETS = [f"cryoclassOffset{axis}Angst" for axis in "XYZ"]


@dataclass(frozen=True, kw_only=True)
class ExtractedBoxes:
    """What was cut, in the order of ``rows``.

    Attributes
    ----------
    rows
        Row numbers (m,) of the table, from 0.
    images
        File of each.
    angpix, side
        Pixel size in angstroms and side in pixels.
    optics
        What is known of the optics groups of the tomograms.
    group
        Which of them (m,) each row belongs to, from 0.
    """

    rows: np.ndarray
    images: Sequence[Path]
    angpix: float
    side: int
    optics: Sequence[Mapping[str, str]]
    group: np.ndarray


@dataclass(frozen=True, kw_only=True)
class BoxPlaces:
    """Where boxes were cut, row by row of the table that :func:`with_boxes` returns.

    Attributes
    ----------
    coordinates
        New coordinates (m, 3) x, y, z in one of that table's :func:`frames_to_write`; ``None`` where the old ones stay.
    origins
        New origins (m, 3) x, y, z in angstroms, in the subtomogram's axes; ``None`` where there are none.
    offsets
        Without origins, where the particle lies from the box centre (m, 3) x, y, z in angstroms.
    """

    coordinates: np.ndarray | None
    origins: np.ndarray | None
    offsets: np.ndarray | None


def with_boxes(file: ParticleFile, boxes: ExtractedBoxes) -> ParticleFile:
    """Return the table with the rows that were cut only, their images, and everything that describes them.

    All other blocks, columns, comments and cells stay as they were. ``rlnCtfImage`` goes: it describes another box. What
    the table is, it is said anew: with images and sizes its coordinates may be understood in another way.
    """
    table = _with_optics(file.select(boxes.rows.tolist()), boxes)
    columns = {"rlnImageName": [str(path) for path in boxes.images]}
    columns |= _pixel_sizes(table, boxes.angpix)
    table = table.with_columns(columns)
    if "rlnCtfImage" in table.rows:
        table = table.without_column("rlnCtfImage")
    return ParticleFile.of(_described(table.rows, boxes), file.optimisation_set)


def frames_to_write(file: ParticleFile) -> tuple[Frame, ...]:
    """Return the frames in which coordinates of a table with boxes may be understood, the likeliest first.

    M's own columns stay angstroms; those of RELION and Warp that come beside them count pixels of the images.
    """
    dialect = file.dialect
    if dialect.coordinates not in (PIXELS, CENTRED):
        return (Frame.IMAGE_PIXELS,)
    return (*filter(None, [dialect.frame]), *dialect.rivals)


def with_places(file: ParticleFile, places: BoxPlaces) -> ParticleFile:
    """Return a table with boxes that says where they were cut."""
    columns: dict[str, list[str]] = {}
    dialect = file.dialect
    if places.coordinates is not None:
        centred = dialect.coordinates == CENTRED
        columns |= _columns(CENTRED if centred else PIXELS, places.coordinates)
    if (
        places.origins is not None and file.rows.angpix is not None
    ):  # the older rlnOriginX counts pixels of the image
        unit = 1.0 if dialect.origins == ORIGINS else file.rows.angpix[:, None]
        columns |= _columns(dialect.origins, places.origins / unit)
    if places.offsets is not None:
        columns |= _columns(OFFSETS, places.offsets)
    return file.with_columns(columns)


def _with_optics(table: ParticleFile, boxes: ExtractedBoxes) -> ParticleFile:
    """Give a table that has no optics, such as RELION 5's picks, those of its tomograms: RELION cannot do without."""
    known = all(group.keys() == set(OPTICS_COLUMNS) for group in boxes.optics)
    if table.rows.optics_table is not None or not known:
        return table
    optics: dict[str, Sequence[object]] = {GROUP: range(1, len(boxes.optics) + 1)}
    optics |= {label: [group[label] for group in boxes.optics] for label in OPTICS_COLUMNS}
    optics["rlnTomoSubtomogramBinning"] = [1] * len(boxes.optics)  # becomes right with the other sizes
    head = tables_text({"optics": optics}).encode("utf-8", "surrogateescape")
    wider = table.with_columns({GROUP: [str(number + 1) for number in boxes.group.tolist()]})
    text = StarFile.parse(head + wider.rows.text.to_bytes(), table.path)
    place = wider.rows.text.blocks.index(wider.rows.block) + 1  # behind the optics
    return replace(wider, rows=Rows(text=text, block=text.blocks[place]))


def _columns(labels: Sequence[str], values: np.ndarray) -> dict[str, list[str]]:
    rounded = np.round(values, 6) + 0.0  # no "-0.000000"
    return {label: [f"{value:.6f}" for value in rounded[:, axis]] for axis, label in enumerate(labels)}


def _pixel_sizes(table: ParticleFile, angpix: float) -> dict[str, list[str]]:
    """Pixel size per row, for files that have no optics table (RELION 3.0, Warp)."""
    columns, count = {}, len(table.rows)
    if table.rows.optics_table is None:
        columns["rlnMagnification"] = ["10000.000000"] * count
        columns["rlnDetectorPixelSize"] = [f"{angpix:.6f}"] * count
    if "rlnPixelSize" in table.rows or (not columns and table.dialect.producer == "warp"):
        columns["rlnPixelSize"] = [f"{angpix:.6f}"] * count
    return columns


def _described(rows: Rows, boxes: ExtractedBoxes) -> StarFile:
    """Tell the optics table, and RELION 5's general block, what the images are now."""
    text, optics = rows.text, rows.optics_table
    if optics is not None and optics.labels:
        values = {
            "rlnImagePixelSize": f"{boxes.angpix:.6f}",
            "rlnImageSize": str(boxes.side),
            "rlnImageDimensionality": "3",
            "rlnCtfDataAreCtfPremultiplied": "0",
        }
        columns = {label: [value] * len(optics) for label, value in values.items()}
        if "rlnTomoSubtomogramBinning" in optics.labels and "rlnTomoTiltSeriesPixelSize" in optics.labels:
            unbinned = text.numbers(optics, ["rlnTomoTiltSeriesPixelSize"])[:, 0]
            columns["rlnTomoSubtomogramBinning"] = [f"{boxes.angpix / size:.6f}" for size in unbinned]
        text = text.with_columns(optics, columns)
    general = text.block("general")
    if general is not None and "rlnTomoSubTomosAre2DStacks" in general.items:
        text = text.with_item(general, "rlnTomoSubTomosAre2DStacks", "0")
    return text
