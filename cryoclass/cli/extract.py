"""``cryoclass extract``: from coordinates and tomograms to subtomograms."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.cli import console
from cryoclass.cli.options import (
    Jobs,
    Outdir,
    Overwrite,
    ParticlesArgument,
    claim,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.settings import Extraction, TomogramFiles

if TYPE_CHECKING:
    from cryoclass.cutting import TomogramSource
    from cryoclass.extraction import Extracted
    from cryoclass.particles import Particles


@with_settings
def extract(
    coordinates: ParticlesArgument = None,
    outdir: Outdir = Path("Extract"),
    jobs: Jobs = cores(),
    overwrite: Overwrite = False,
    *,
    files: TomogramFiles,
    settings: Extraction,
) -> None:
    """Cut subtomograms out of tomograms.

    Reads the coordinates of a RELION or Warp STAR file. Writes one .mrc per particle, and your STAR file with the
    images added, which RELION reads.

    Example: cryoclass extract coordinates.star --tomograms Tomograms/ --box 32 --angpix 10
    """
    claim(outdir, "particles.star", overwrite=overwrite)
    from cryoclass.cli.sources import contrast_words, warn_at_start
    from cryoclass.cutting import TomogramSource
    from cryoclass.extraction import extract as extract_all
    from cryoclass.particles import read_particles
    from cryoclass.results import write_optimisation_sets
    from cryoclass.tomograms import find_tomograms

    particles = read_particles(particles_path(coordinates))
    console.note(f"{particles.path}: {particles.dialect.in_words()}, {len(particles)} particles")
    tomograms = files.tomograms
    if tomograms is None and particles.optimisation_set is not None:
        tomograms = particles.optimisation_set.path
    found = find_tomograms(particles.tomograms, tomograms, particles.path, skip_missing=files.skip_missing)
    source = TomogramSource(particles, found, settings, files.tomogram_angpix)
    warn_at_start(source, outdir)
    _warn_of_silent_optics(particles)
    for line in contrast_words(source):
        console.note(line)
    extracted = extract_all(source, outdir, jobs, console.track)
    _write_page(outdir / "extract.html", source, extracted)
    write_optimisation_sets(particles, tomograms, [extracted.star])
    left_out = len(extracted.skipped)
    console.rows(
        "extracted",
        [
            ("particles", f"{len(extracted.rows)} of {len(particles)}, from {len(found)} tomograms"),
            ("box", f"{settings.box} pixels of {extracted.angpix:.4g} A"),
            ("left out", f"{left_out}, reasons in {outdir / 'skipped.csv'}" if left_out else "none"),
            ("table", extracted.star),
            ("look at", outdir / "extract.html"),
        ],
    )
    console.next_command(f"cryoclass finetune {extracted.star}", f"cryoclass embed {extracted.star}")


def _warn_of_silent_optics(particles: "Particles") -> None:
    """Coordinates alone are enough for us; RELION (3.1.3, measured) refuses a particle file without these two."""
    known = {label for block in particles.star.blocks for label in block.labels}
    lacking = [label for label in ("rlnVoltage", "rlnSphericalAberration") if label not in known]
    if lacking:
        console.warn(
            f"{particles.path} has no {' and no '.join(lacking)}; RELION reads particles only with both. Add them where "
            "the particles go on to RELION."
        )


def _write_page(path: Path, source: "TomogramSource", extracted: "Extracted") -> None:
    from cryoclass.report.content import Example, ExtractContent, TomogramSheet
    from cryoclass.report.pages import extract_page

    names = source.particles.tomograms
    written = Counter(names[row] for row in extracted.rows.tolist())
    skipped = Counter(item.tomogram for item in extracted.skipped)
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
        reasons=Counter(item.reason for item in extracted.skipped),
        settings=source.settings.to_dict(),
    )
    extract_page(path, content)
