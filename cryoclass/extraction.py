"""From coordinates to one ``.mrc`` per particle and a STAR file that RELION and Warp read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoclass.cutting import TomogramSource
from cryoclass.errors import ChangedError, OutputError
from cryoclass.file_names import folder_names, numbered_path
from cryoclass.files import digest, stamp
from cryoclass.journal import Journal, SoFar
from cryoclass.particles import Particles
from cryoclass.progress import Track, silent
from cryoclass.readings import spread_of
from cryoclass.results import write_skipped
from cryoclass.sources import Reason, check_unchanged, lost, none_readable, read_many
from cryoclass.star.extracted import BoxPlaces, ExtractedBoxes
from cryoclass.star.frames import Frame, affine, origins_in_subtomogram
from cryoclass.star.names import project_path
from cryoclass.stopping import between_steps
from cryoclass.volumes.mrc import open_volume, volume_bytes, write_volume

SKIPPED = "skipped.csv"
JOURNAL = "extract.progress"
SAMPLE_PER_TOMOGRAM = 6
SAMPLED_TOMOGRAMS = 24  # boxes to look at stay in memory


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What an extraction did.

    Attributes
    ----------
    rows
        Row numbers of the input that were written.
    images
        The file of each.
    left_out
        Why each of the others has no box, by row number.
    sample
        A few (row number, box ``[z, y, x]``) of each of the first tomograms, by tomogram name.
    mean
        Mean of all boxes ``[z, y, x]``.
    angpix
        Pixel size of the boxes in angstroms.
    found
        Rows that an earlier run, which was ended, had done already.
    """

    rows: np.ndarray
    images: tuple[Path, ...]
    left_out: dict[int, Reason]
    sample: dict[str, list[tuple[int, np.ndarray]]]
    mean: np.ndarray
    angpix: float
    found: int

    @property
    def lost(self) -> int:
        """How many particles should have been cut, and could not be."""
        return lost(self.left_out)


def cut_all(source: TomogramSource, outdir: Path, workers: int = 1, track: Track = silent) -> Extracted:
    """Cut every particle and write its box; :func:`write_extracted` writes the tables.

    A particle that cannot be cut is kept with its reason, and the rest goes on; where none can be, ``skipped.csv`` says why.
    What an earlier run of the same particles and settings has written there is used.

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
    ChangedError
        A tomogram changed meanwhile.
    OutputError
        A file cannot be written, or one that was written is gone.
    """
    paths, before = image_paths(source, outdir), source.fingerprint()
    journal = Journal(outdir / JOURNAL, digest(before, *(path.parts[-2:] for path in paths.values())))
    so_far = _resumed(source, paths, journal)
    found = so_far.done
    try:
        _cut(source, paths, so_far, journal, workers, track)
        check_unchanged(source, before)
    except ChangedError:
        journal.path.unlink(missing_ok=True)
        raise
    left_out = so_far.left_out | {
        row: _without_volume(source, row) for row in range(len(source)) if row not in paths
    }
    rows = np.array([row for row in range(len(source)) if row not in left_out], dtype=np.int64)
    if not len(rows):
        forget_progress(outdir)
        write_skipped(outdir / SKIPPED, source.particles, left_out)
        raise none_readable(len(source), left_out[min(left_out)])
    _check_written(source, [paths[row] for row in rows.tolist()])
    return Extracted(
        rows=rows,
        images=tuple(paths[row] for row in rows.tolist()),
        left_out=left_out,
        sample=_sample(source, paths, left_out),
        mean=(so_far.total / len(rows)).astype(np.float32),
        angpix=source.angpix,
        found=found,
    )


def _cut(
    source: TomogramSource,
    paths: dict[int, Path],
    so_far: SoFar,
    journal: Journal,
    workers: int,
    track: Track,
) -> None:
    """Cut and write what is not done yet; between two boxes, now and then and before it ends, note how far it has come."""
    again, rest = _lost(so_far), source.order[so_far.done :].tolist()
    boxes = read_many(_Written(source, paths), [*again, *rest], workers)
    with between_steps() as waiting:
        for number, (row, box) in enumerate(track(boxes, "extracting", len(again) + len(rest))):
            so_far.left_out.pop(row, None)
            if isinstance(box, Reason):
                so_far.left_out[row] = box
            else:
                so_far.total += box
            so_far.done += number >= len(again)
            if journal.due or waiting.number is not None:
                journal.note(so_far)
            waiting.obey()
    journal.note(so_far)


def _resumed(source: TomogramSource, paths: dict[int, Path], journal: Journal) -> SoFar:
    """Return what was done before, where all its files are there; else begin anew."""
    so_far = journal.read()
    done = [row for row in source.order[: so_far.done].tolist() if row not in so_far.left_out]
    whole = so_far.total.shape == (source.box,) * 3 and all(_is_whole(source, paths[row]) for row in done)
    return so_far if whole else SoFar(total=np.zeros((source.box,) * 3))


def _lost(so_far: SoFar) -> list[int]:
    """Return the rows to try again: somebody may have mended them, and to try costs little."""
    return [row for row, reason in so_far.left_out.items() if not reason.by_rule]


def _is_whole(source: TomogramSource, path: Path) -> bool:
    return stamp(path)[0] == volume_bytes(source.box, source.settings.dtype)


def _check_written(source: TomogramSource, paths: Sequence[Path]) -> None:
    """Count on the disk what was written."""
    broken = [path for path in paths if not _is_whole(source, path)]
    if broken:
        raise OutputError(
            f"{len(broken)} of {len(paths)} boxes that were written are gone, or cut short; the first: {broken[0]}.",
            "See what else writes there, and type the same command again.",
        )


def _sample(
    source: TomogramSource, paths: dict[int, Path], left_out: dict[int, Reason]
) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Read a few boxes of the first tomograms again, as they were written."""
    sample: dict[str, list[tuple[int, np.ndarray]]] = {}
    for placement in source.placements:
        rows = [row for row in placement.rows.tolist() if row not in left_out][:SAMPLE_PER_TOMOGRAM]
        if rows and len(sample) < SAMPLED_TOMOGRAMS:
            boxes = [np.array(open_volume(paths[row]).data, np.float32) for row in rows]
            sample[source.particles.tomograms[rows[0]]] = list(zip(rows, boxes, strict=True))
    return sample


def _without_volume(source: TomogramSource, row: int) -> Reason:
    return Reason(f"tomogram {source.particles.tomograms[row]} has no volume", by_rule=True)


def forget_progress(outdir: Path) -> None:
    """Remove what a killed extraction would go on from: this one is finished."""
    (outdir / JOURNAL).unlink(missing_ok=True)


def write_extracted(source: TomogramSource, extracted: Extracted, star: Path) -> None:
    """Write the table to ``star`` and, beside it, ``skipped.csv``; OutputError where a file cannot be written."""
    write_skipped(star.with_name(SKIPPED), source.particles, extracted.left_out)
    output_table(source, extracted.rows, extracted.images).write(star)


def image_paths(source: TomogramSource, outdir: Path) -> dict[int, Path]:
    """Return the file of each row: numbered from 1 within its tomogram, in the order of the STAR file."""
    folder = project_path(outdir) / "Subtomograms"
    names = [placement.tomogram.name or placement.tomogram.paths[0].name for placement in source.placements]
    paths = {}
    for placement, name in zip(source.placements, folder_names(names), strict=True):
        for number, row in enumerate(placement.rows.tolist(), 1):
            paths[row] = numbered_path(folder, name, number)
    assert len(set(paths.values())) == len(paths)  # two particles in one file would be lost  # noqa: S101
    return paths


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
        remainder[rows] = placement.remainders
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
