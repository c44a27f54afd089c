"""From coordinates to one ``.mrc`` per particle and a STAR file that RELION and Warp read."""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.cutting import TomogramSource
from cryoclass.particles import Particles
from cryoclass.progress import Track, silent
from cryoclass.readings import spread_of
from cryoclass.results import Skipped, write_skipped
from cryoclass.sources import none_readable, read_many
from cryoclass.star.extracted import BoxPlaces, ExtractedBoxes
from cryoclass.star.frames import Frame, affine, origins_in_subtomogram
from cryoclass.star.names import project_path, stem
from cryoclass.volumes.mrc import write_volume

SKIPPED = "skipped.csv"
SAMPLE_PER_TOMOGRAM = 6
LONGEST_NAME = 200  # bytes
SAMPLED_TOMOGRAMS = 24  # boxes to look at stay in memory


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What an extraction did.

    Attributes
    ----------
    star
        The STAR file to write.
    rows
        Row numbers of the input that were written.
    images
        The file of each.
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
    images: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    sample: dict[str, list[tuple[int, np.ndarray]]]
    mean: np.ndarray
    angpix: float


def cut_all(source: TomogramSource, outdir: Path, workers: int = 1, track: Track = silent) -> Extracted:
    """Cut every particle and write its box; :func:`write_extracted` writes the tables.

    A particle that cannot be cut is kept with its reason, and the rest goes on; where none can be, ``skipped.csv`` says why.

    Parameters
    ----------
    source
        The particles and how to cut them.
    outdir
        Receives ``Subtomograms/<tomogram>/<tomogram>_000001.mrc``.
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
    if not written:
        write_skipped(outdir / SKIPPED, particles, skipped)
        raise none_readable(len(particles), min(skipped, key=lambda item: item.row).reason)
    rows = np.array(sorted(written))
    return Extracted(
        star=outdir / "particles.star",
        rows=rows,
        images=tuple(written[row] for row in rows.tolist()),
        skipped=tuple(sorted(skipped, key=lambda item: item.row)),
        sample=sample,
        mean=(total / len(written)).astype(np.float32),
        angpix=source.angpix,
    )


def write_extracted(source: TomogramSource, extracted: Extracted) -> None:
    """Write ``particles.star`` and, beside it, ``skipped.csv``; OutputError where a file cannot be written."""
    write_skipped(extracted.star.with_name(SKIPPED), source.particles, extracted.skipped)
    output_table(source, extracted.rows, extracted.images).write(extracted.star)


def image_paths(source: TomogramSource, outdir: Path) -> dict[int, Path]:
    """Return the file of each row: numbered from 1 within its tomogram, in the order of the STAR file."""
    folder = project_path(outdir) / "Subtomograms"
    names = [placement.tomogram.name or placement.tomogram.paths[0].name for placement in source.placements]
    paths = {}
    for placement, name in zip(source.placements, folder_names(names), strict=True):
        for number, row in enumerate(placement.rows.tolist(), 1):
            paths[row] = folder / name / f"{name}_{number:06d}.mrc"
    assert len(set(paths.values())) == len(paths)  # two particles in one file would be lost  # noqa: S101
    return paths


def folder_names(tomograms: Sequence[str]) -> list[str]:
    """Return a folder name for each tomogram: its stem where that tells them apart, else its whole name, else numbered.

    Disks that take capitals for small letters, and umlauts in two spellings for one, do not mix them up.
    """
    stems = [safe_name(stem(name)) for name in tomograms]
    if len(set(map(_as_disks_see, stems))) < len(stems):  # a/TS_01.mrc and b/TS_01.mrc
        stems = [safe_name(name) for name in tomograms]
    taken: set[str] = set()
    for place, name in enumerate(stems):  # "TS 01" and TS_01
        free = next(n for n in _numbered(name) if _as_disks_see(n) not in taken)
        taken.add(_as_disks_see(free))
        stems[place] = free
    return stems


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _as_disks_see(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def output_table(source: TomogramSource, rows: np.ndarray, images: Sequence[Path]) -> Particles:
    """Return the input's table with the written rows only, their images, and everything that describes them.

    The remainder of rounding is kept: where the file has origins, they hold it and the coordinates become the box
    centres (``position = coordinate - origin`` stays true); elsewhere the coordinates stay the particle's, and
    ``cryoclassOffset*Angst`` holds where it lies from the box centre.
    """
    particles, settings = source.particles, source.settings
    optics, group = _optics(source)
    written = particles.with_boxes(
        ExtractedBoxes(
            rows=rows,
            images=images,
            angpix=source.angpix,
            side=source.box,
            optics=optics,
            group=group[rows],
        )
    )
    frame = next(
        f
        for f in written.frames_to_write
        if spread_of(f, source.placements, particles) or f is Frame.IMAGE_PIXELS
    )
    folded = settings.shifts and particles.origins is not None
    stays = frame is source.reading.frame is not Frame.IMAGE_PIXELS and not folded
    coordinates, remainder = _places(source, frame, centres=folded)
    orientation = None if particles.orientation is None else particles.orientation[rows]
    return written.with_places(
        BoxPlaces(
            coordinates=None if stays else coordinates[rows],
            origins=origins_in_subtomogram(-remainder[rows], orientation) if folded else None,
            offsets=None if folded else remainder[rows],
        )
    )


def _places(source: TomogramSource, frame: Frame, *, centres: bool) -> np.ndarray:
    """Return of all particles (2, n, 3): coordinates of box or particle; where it lies from the box, in angstroms."""
    coordinates, remainder = both = np.zeros((2, len(source), 3))
    unbinned = source.particles.tilt_series_angpix
    for placement in source.placements:
        rows, geometry = placement.rows, placement.geometry
        to_voxel = affine(frame, geometry, source.angpix, None if unbinned is None else unbinned[rows])
        coordinates[rows] = to_voxel.coordinate(placement.centres if centres else placement.positions)
        remainder[rows] = (placement.positions - placement.centres) * geometry.angpix
    return both


def _optics(source: TomogramSource) -> tuple[list[dict[str, str]], np.ndarray]:
    """Return what is known of the tomograms' optics groups, and the group (n,) of each particle, from 0."""
    groups: list[dict[str, str]] = []
    numbers = np.zeros(len(source), dtype=int)
    for placement in source.placements:
        optics = dict(placement.tomogram.optics)
        if optics not in groups:
            groups.append(optics)
        numbers[placement.rows] = groups.index(optics)
    return groups, numbers


def safe_name(name: str) -> str:
    """Turn a tomogram name into one folder name, which a number and ``.mrc`` may follow within a disk's 255 bytes."""
    plain = re.sub(r"[^\w.+-]", "_", name)
    hidden = re.sub(r"^\.", "_", plain)  # also ".."
    return hidden.encode()[:LONGEST_NAME].decode(errors="ignore") or "tomogram"


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
