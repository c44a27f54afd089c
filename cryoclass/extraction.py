"""From coordinates to one ``.mrc`` per particle and a STAR file that RELION and Warp read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoclass.cutting import TomogramSource, coordinate_frame
from cryoclass.errors import ParticleError
from cryoclass.particles import Particles
from cryoclass.progress import Track, silent
from cryoclass.results import Skipped, write_skipped
from cryoclass.sources import read_many
from cryoclass.star.dialects import CENTRED, ORIGINS, PIXELS, Frame
from cryoclass.star.document import StarFile
from cryoclass.star.frames import affine, origins_in_subtomogram
from cryoclass.star.names import project_path, stem
from cryoclass.star.tables import tables_text
from cryoclass.tomograms import OPTICS_COLUMNS
from cryoclass.volumes.mrc import write_volume

SAMPLE_PER_TOMOGRAM = 6
SAMPLED_TOMOGRAMS = 24  # boxes to look at stay in memory
# In which frame the written file will be understood, where that is another than the input's.
_WRITTEN_FRAME = {
    Frame.ANGSTROMS: Frame.IMAGE_PIXELS,
    Frame.FRACTION: Frame.IMAGE_PIXELS,
    Frame.PICKED_ANGSTROMS: Frame.CENTRED_ANGSTROMS,
}


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What an extraction did.

    Attributes
    ----------
    star
        The written STAR file.
    rows
        Row numbers of the input that were written.
    skipped
        The others, with reasons.
    sample
        A few (row number, box ``[z, y, x]``) of each of the first tomograms, by tomogram name.
    mean
        Mean of all boxes ``[z, y, x]``.
    angpix
        Pixel size of the boxes in angstroms.
    """

    star: Path
    rows: np.ndarray
    skipped: tuple[Skipped, ...]
    sample: dict[str, list[tuple[int, np.ndarray]]]
    mean: np.ndarray
    angpix: float


def extract(source: TomogramSource, outdir: Path, workers: int = 1, track: Track = silent) -> Extracted:
    """Cut every particle and write it.

    A particle that cannot be cut is listed in ``skipped.csv`` with its reason; the rest goes on.

    Parameters
    ----------
    source
        The particles and how to cut them.
    outdir
        Receives ``Subtomograms/<tomogram>/<tomogram>_000001.mrc``, ``skipped.csv`` and, last, ``particles.star``.
    workers
        Threads that cut and write.
    track
        Sees each particle.

    Raises
    ------
    ParticleError
        Not one particle could be cut.
    OutputError
        A file cannot be written.
    """
    particles, paths = source.particles, image_paths(source, outdir)
    written: dict[int, Path] = {}
    skipped = [_without_volume(particles, row) for row in sorted(set(range(len(particles))) - set(paths))]
    sample: dict[str, list[tuple[int, np.ndarray]]] = {}
    total = np.zeros((source.box,) * 3)
    boxes = read_many(_Written(source, paths), source.order.tolist(), workers)
    for row, box in track(boxes, "extracting", len(paths)):
        tomogram = particles.tomograms[row]
        if isinstance(box, str):
            skipped.append(Skipped(row=row, tomogram=tomogram, reason=box))
            continue
        written[row] = paths[row]
        total += box
        if tomogram in sample or len(sample) < SAMPLED_TOMOGRAMS:
            kept = sample.setdefault(tomogram, [])
            kept += [(row, box)] * (len(kept) < SAMPLE_PER_TOMOGRAM)
    write_skipped(outdir / "skipped.csv", particles, skipped)
    if not written:
        raise ParticleError(
            f"none of {len(particles)} particles could be cut; the first: {skipped[0].reason}"
        )
    rows = np.array(sorted(written))
    star = outdir / "particles.star"
    output_table(source, rows, [written[row] for row in rows.tolist()]).write(star)
    return Extracted(
        star=star,
        rows=rows,
        skipped=tuple(sorted(skipped, key=lambda item: item.row)),
        sample=sample,
        mean=(total / len(written)).astype(np.float32),
        angpix=source.angpix,
    )


def image_paths(source: TomogramSource, outdir: Path) -> dict[int, Path]:
    """Return the file of each row: numbered from 1 within its tomogram, in the order of the STAR file."""
    folder = project_path(outdir) / "Subtomograms"
    names = [placement.tomogram.name or placement.tomogram.paths[0].name for placement in source.placements]
    stems = [safe_name(stem(name)) for name in names]
    if len(set(stems)) < len(stems):  # a/TS_01.mrc and b/TS_01.mrc
        stems = [safe_name(name) for name in names]
    paths = {}
    for placement, name in zip(source.placements, stems, strict=True):
        for number, row in enumerate(placement.rows.tolist(), 1):
            paths[row] = folder / name / f"{name}_{number:06d}.mrc"
    return paths


def output_table(source: TomogramSource, rows: np.ndarray, images: Sequence[Path]) -> StarFile:
    """Return the input's STAR file with the written rows only, their images, and everything that describes them.

    All other blocks, columns, comments and cells stay as they were. ``rlnCtfImage`` goes: it describes another box.
    """
    table = _with_optics(source.particles, source).select(rows.tolist())
    columns = {"rlnImageName": [str(path) for path in images]}
    columns |= _moved_coordinates(source, rows)
    columns |= _pixel_size_columns(table, source.angpix)
    star = table.with_columns(columns).star
    block = star.block(table.block.name)
    if block is not None and "rlnCtfImage" in block.labels:
        star = star.without_column(block, "rlnCtfImage")
    return _describe_images(star, source)


def _with_optics(table: Particles, source: TomogramSource) -> Particles:
    """Give a table that has no optics, such as RELION 5's picks, those of its tomograms: RELION cannot do without."""
    groups = list(dict.fromkeys(tuple(p.tomogram.optics.items()) for p in source.placements))
    known = all(dict(group).keys() == set(OPTICS_COLUMNS) for group in groups)
    if table.star.block("optics") is not None or not known:
        return table
    numbers = np.ones(len(table), dtype=int)
    for placement in source.placements:
        numbers[placement.rows] = groups.index(tuple(placement.tomogram.optics.items())) + 1
    optics: dict[str, Sequence[object]] = {"rlnOpticsGroup": range(1, len(groups) + 1)}
    optics |= {label: [dict(group)[label] for group in groups] for label in OPTICS_COLUMNS}
    optics["rlnTomoSubtomogramBinning"] = [1] * len(
        groups
    )  # becomes right with the other sizes of the images
    head = tables_text({"optics": optics}).encode("utf-8", "surrogateescape")
    wider = table.with_columns({"rlnOpticsGroup": [str(number) for number in numbers.tolist()]})
    star = StarFile.parse(head + wider.star.to_bytes(), table.path)
    return replace(wider, star=star, block=star.blocks[wider.star.blocks.index(wider.block) + 1])


def safe_name(name: str) -> str:
    """Turn a tomogram name into one folder name."""
    return re.sub(r"[^\w.+-]", "_", name) or "tomogram"


class _Written:
    """Boxes of a source that are written to their files as they are read, in the threads that read them."""

    def __init__(self, source: TomogramSource, paths: dict[int, Path]) -> None:
        self.source, self.paths = source, paths
        self.box, self.angpix, self.order = source.box, source.angpix, source.order

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """Return the box of one row, ``[z, y, x]`` float32; see :class:`cryoclass.sources.Source`."""
        box = self.source.read(index)
        write_volume(self.paths[index], box, self.angpix, self.source.settings.dtype)
        return box

    def fingerprint(self) -> str:
        """Return what the boxes are; see :class:`cryoclass.sources.Source`."""
        return self.source.fingerprint()


def _without_volume(particles: Particles, row: int) -> Skipped:
    name = particles.tomograms[row]
    return Skipped(row=row, tomogram=name, reason=f"tomogram {name} has no volume")


def _moved_coordinates(source: TomogramSource, rows: np.ndarray) -> dict[str, list[str]]:
    """Return columns that say where the boxes are, in the frame in which the written file will be understood.

    The remainder of rounding is kept: where the file has origins, they hold it and the coordinates become the box
    centres (``position = coordinate - origin`` stays true); elsewhere the coordinates stay the particle's, and
    ``cryoclassOffset*Angst`` holds where it lies from the box centre.
    """
    particles, dialect = source.particles, source.particles.dialect
    assert dialect.frame is not None  # noqa: S101 - the source was made from coordinates
    frame = _WRITTEN_FRAME.get(dialect.frame, dialect.frame)
    same_numbers = frame is coordinate_frame(particles, source.settings) is not Frame.IMAGE_PIXELS
    folded = bool(dialect.origins) and source.settings.shifts
    coordinates, remainder = np.zeros((2, len(particles), 3))
    for placement in source.placements:
        to_voxel = affine(frame, placement.geometry, source.angpix)
        shown = placement.centres if folded else placement.positions
        coordinates[placement.rows] = to_voxel.coordinate(shown)
        remainder[placement.rows] = (placement.positions - placement.centres) * placement.geometry.angpix
    moved = _columns(CENTRED if frame is Frame.CENTRED_ANGSTROMS else PIXELS, coordinates[rows])
    if folded:
        unit = (
            1.0 if dialect.origins == ORIGINS else source.angpix
        )  # the older rlnOriginX counts pixels of the image
        orientation = None if particles.orientation is None else particles.orientation[rows]
        origins = origins_in_subtomogram(-remainder[rows], orientation)  # the file keeps them so
        return moved | _columns(dialect.origins, origins / unit)
    offsets = _columns([f"cryoclassOffset{axis}Angst" for axis in "XYZ"], remainder[rows])
    return offsets if same_numbers else moved | offsets


def _columns(labels: Sequence[str], values: np.ndarray) -> dict[str, list[str]]:
    rounded = np.round(values, 6) + 0.0  # no "-0.000000"
    return {label: [f"{value:.6f}" for value in rounded[:, axis]] for axis, label in enumerate(labels)}


def _pixel_size_columns(table: Particles, angpix: float) -> dict[str, list[str]]:
    """Pixel size per row, for files that have no optics table (RELION 3.0, Warp)."""
    columns = {}
    if table.star.block("optics") is None:
        columns["rlnMagnification"] = ["10000.000000"] * len(table)
        columns["rlnDetectorPixelSize"] = [f"{angpix:.6f}"] * len(table)
    if "rlnPixelSize" in table.block.labels or (not columns and table.dialect.producer == "warp"):
        columns["rlnPixelSize"] = [f"{angpix:.6f}"] * len(table)
    return columns


def _describe_images(star: StarFile, source: TomogramSource) -> StarFile:
    """Tell the optics table, and RELION 5's general block, what the images are now."""
    optics = star.block("optics")
    if optics is not None and optics.labels:
        groups = len(optics)
        values = {
            "rlnImagePixelSize": f"{source.angpix:.6f}",
            "rlnImageSize": str(source.box),
            "rlnImageDimensionality": "3",
            "rlnCtfDataAreCtfPremultiplied": "0",
        }
        columns = {label: [value] * groups for label, value in values.items()}
        if "rlnTomoSubtomogramBinning" in optics.labels and "rlnTomoTiltSeriesPixelSize" in optics.labels:
            unbinned = star.numbers(optics, ["rlnTomoTiltSeriesPixelSize"])[:, 0]
            columns["rlnTomoSubtomogramBinning"] = [f"{source.angpix / size:.6f}" for size in unbinned]
        star = star.with_columns(optics, columns)
    general = star.block("general")
    if general is not None and "rlnTomoSubTomosAre2DStacks" in general.items:
        star = star.with_item(general, "rlnTomoSubTomosAre2DStacks", "0")
    return star
