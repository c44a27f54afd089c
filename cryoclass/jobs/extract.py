"""From coordinates and tomograms to subtomograms."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim
from cryoclass.jobs.opening import check_crops, crop_words, particles_path
from cryoclass.machine import cores
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import Extraction, TomogramFiles, WorkRequest, outdir_setting, particles_setting

if TYPE_CHECKING:
    from cryoclass.cutting import TomogramSource
    from cryoclass.extraction import Extracted
    from cryoclass.particles import Particles
    from cryoclass.tomograms import Tomogram


TABLE = "particles.star"  # comes last and says that all is there
WRITES = Writes(
    command="extract",
    last=TABLE,
    files=(
        "extract.html",
        "skipped.csv",
        "optimisation_set.star",
        "particles_incomplete.star",
        "particles_incomplete_optimisation_set.star",
    ),
    kept=("extract.progress",),
    folders=("Subtomograms",),
)


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(WorkRequest):
    """Which particles to cut out of which tomograms, and how."""

    particles: Path | None = particles_setting()
    outdir: Path = outdir_setting("Extract")
    files: TomogramFiles = TomogramFiles()
    settings: Extraction


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What an extraction did.

    Attributes
    ----------
    extracted
        Rows written and left out, with the reasons.
    count
        Particles in the table.
    tomograms
        How many they were cut out of.
    table, page
        The table to go on with, and the page to look at.
    """

    extracted: "Extracted"
    count: int
    tomograms: int
    table: Path
    page: Path


def extract(request: ExtractRequest, listener: Listener = TO_LOG) -> ExtractResult:
    """Cut subtomograms out of tomograms; write one volume each, the table, and a page.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    inputs = (particles_path(request.particles), request.files.tomograms)
    with claim(request.outdir, WRITES, inputs, overwrite=request.overwrite) as place:
        return _extract(request, place, listener)


def _extract(request: ExtractRequest, place: Workplace, listener: Listener) -> ExtractResult:
    from cryoclass.extraction import cut_all, forget_progress, write_extracted
    from cryoclass.particles import read_particles
    from cryoclass.results import INCOMPLETE, WHERE_LOST, write_optimisation_sets
    from cryoclass.sources import too_many_lost

    table = read_particles(particles_path(request.particles))
    listener.note(f"{table.path}: {table.in_words()}, {len(table)} particles")
    tomograms = request.files.tomograms
    if tomograms is None and table.optimisation_set is not None:
        tomograms = table.optimisation_set.path
    source, found = _open(table, request, tomograms, listener)
    place.begin()
    extracted = cut_all(source, request.outdir, request.num_workers or cores(), listener.track)
    if extracted.found:
        listener.note(
            f"{request.outdir}: {extracted.found} particles were done already; went on with the others"
        )
    problem = too_many_lost(extracted.lost, len(table), request.max_unreadable, WHERE_LOST)
    star, page = request.outdir / (INCOMPLETE if problem else TABLE), request.outdir / "extract.html"
    with place.finishing():
        write_extracted(source, extracted, star)
        _write_page(page, source, extracted)
        write_optimisation_sets(table, tomograms, [star])
    if problem is not None:
        raise problem
    forget_progress(request.outdir)
    return ExtractResult(extracted=extracted, count=len(table), tomograms=len(found), table=star, page=page)


def _open(
    table: "Particles", request: ExtractRequest, tomograms: Path | None, listener: Listener
) -> "tuple[TomogramSource, dict[str, Tomogram]]":
    from cryoclass.cutting import TomogramSource
    from cryoclass.tomograms import find_tomograms

    files = request.files
    found = find_tomograms(
        table.tomograms,
        tomograms,
        table.path,
        skip_missing=files.skip_missing,
        angpix=files.tomogram_angpix,
    )
    source = TomogramSource(table, found, request.settings, files.tomogram_angpix)
    check_crops(source, files, listener, request.outdir)
    _warn_of_silent_optics(table, listener)
    for line in crop_words(source):
        listener.note(line)
    return source, found


def _warn_of_silent_optics(table: "Particles", listener: Listener) -> None:
    """Coordinates alone are enough for us; RELION (3.1.3, measured) refuses a particle file without these two."""
    lacking = table.lacking(["rlnVoltage", "rlnSphericalAberration"])
    if lacking:
        listener.warn(
            f"{table.path} has no {' and no '.join(lacking)}; RELION reads particles only with both. Add them where "
            "the particles go on to RELION."
        )


def _write_page(path: Path, source: "TomogramSource", extracted: "Extracted") -> None:
    from cryoclass.report.content import Example, ExtractContent, TomogramSheet
    from cryoclass.report.pages import extract_page

    names = source.particles.tomograms
    written = Counter(names[row] for row in extracted.rows.tolist())
    skipped = Counter(names[row] for row in extracted.left_out)
    sheets = [
        TomogramSheet(
            name=name,
            written=written[name],
            skipped=skipped[name],
            examples=[
                Example(box=box, row=row + 1, tomogram=name) for row, box in extracted.sample.get(name, [])
            ],
        )
        for name in dict.fromkeys(names)
    ]
    content = ExtractContent(
        tomograms=sheets,
        mean_box=extracted.mean,
        angpix=extracted.angpix,
        reasons=Counter(map(str, extracted.left_out.values())),
        settings=source.settings.to_dict(),
    )
    extract_page(path, content)
