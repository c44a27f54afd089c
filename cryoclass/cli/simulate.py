"""``cryoclass simulate``: data with known truth, to try everything on."""

from pathlib import Path
from typing import Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.options import Outdir, Overwrite, claim, with_settings
from cryoclass.settings import Simulation


@with_settings
def simulate(
    outdir: Outdir = Path("Simulated"),
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps",
            metavar="DIR",
            help="Folder of density maps (MRC), one per species, instead of the built-in phantoms.",
            show_default=False,
        ),
    ] = None,
    particles: Annotated[
        bool, typer.Option("--particles", help="Write particles directly, without tomograms.")
    ] = False,
    overwrite: Overwrite = False,
    *,
    settings: Simulation,
) -> None:
    """Simulate tomograms, or particles, of known content.

    The species are phantoms of well-known complexes, or your own density maps. Poses are random; CTF, missing wedge
    and noise are applied. Writes a coordinates STAR file in the dialect of your choice, and the truth.

    SNR is the variance of the clean density in a box round each particle (after CTF and missing wedge, mean over the
    tomogram's particles) over the variance of the noise.

    Example: cryoclass simulate -o Simulated/ --species 6 --snr 0.5
    """
    claim(outdir, "truth.star", overwrite=overwrite)
    from cryoclass.simulate.maps import read_maps
    from cryoclass.simulate.phantoms import phantom_densities
    from cryoclass.simulate.writer import write_particles, write_tomograms

    shapes = read_maps(maps, settings.angpix, settings.box) if maps else phantom_densities(settings)
    write = write_particles if particles else write_tomograms
    written = write(outdir, shapes, settings, console.track)
    total = sum(written.counts.values())
    console.rows(
        "simulated",
        [
            ("species", ", ".join(written.counts)),
            ("particles", f"{total}, of which {written.labelled} labelled"),
            ("volumes", f"{len(written.volumes)}, {settings.angpix:g} A per pixel, SNR {settings.snr:g}"),
            ("table", written.star),
            ("truth", written.truth),
        ],
    )
    if particles:
        console.next_command(f"cryoclass finetune {written.star}")
    else:
        console.next_command(
            f"cryoclass extract {written.star} --tomograms {outdir / 'tomograms'} --box {settings.box}"
        )
