"""``cryoclass extract``: from coordinates and tomograms to subtomograms."""

from pathlib import Path

from cryoclass.cli import console
from cryoclass.cli.options import (
    Jobs,
    Outdir,
    Overwrite,
    ParticlesArgument,
    SkipMissing,
    TomogramAngpix,
    Tomograms,
    claim,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.settings import Extraction


@with_settings
def extract(
    coordinates: ParticlesArgument = None,
    tomograms: Tomograms = None,
    outdir: Outdir = Path("Extract"),
    tomogram_angpix: TomogramAngpix = None,
    skip_missing: SkipMissing = False,
    jobs: Jobs = cores(),
    overwrite: Overwrite = False,
    *,
    settings: Extraction,
) -> None:
    """Cut subtomograms out of tomograms.

    Reads the coordinates of a RELION or Warp STAR file, and writes one .mrc per particle and a STAR file that RELION
    reads.

    Example: cryoclass extract coordinates.star --tomograms Tomograms/ --box 32 --angpix 10 -o Extract/
    """
    claim(outdir, "particles.star", overwrite=overwrite)
    from cryoclass.extraction import extract as extract_all
    from cryoclass.particles import read_particles
    from cryoclass.subtomograms import TomogramSource
    from cryoclass.tomograms import find_tomograms

    particles = read_particles(particles_path(coordinates))
    console.note(f"{particles.path}: {particles.dialect.in_words()}, {len(particles)} particles")
    found = find_tomograms(particles.tomograms, tomograms, particles.path, skip_missing=skip_missing)
    source = TomogramSource(particles, found, settings, tomogram_angpix)
    for line in _contrast_words(source):
        console.note(line)
    extracted = extract_all(source, outdir, jobs, console.track)
    _write_page(outdir, extracted, settings)
    console.rows(
        "extracted",
        [
            ("particles", f"{len(extracted.rows)} of {len(particles)}, from {len(found)} tomograms"),
            ("box", f"{settings.box} pixels of {extracted.angpix:.4g} A"),
            (
                "left out",
                f"{len(extracted.skipped)}"
                + (f", reasons in {outdir / 'skipped.csv'}" if extracted.skipped else ""),
            ),
            ("table", extracted.star),
            ("look at", outdir / "extract.html"),
        ],
    )
    console.next_command(f"cryoclass finetune {extracted.star}", f"cryoclass embed {extracted.star}")


def _contrast_words(source) -> list[str]:  # noqa: ANN001
    ...


def _write_page(outdir, extracted, settings) -> None:  # noqa: ANN001
    ...
