"""``cryoclass simulate``: data with known truth, to try everything on."""

from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import after_boxes
from cryoclass.cli.options import with_request
from cryoclass.jobs.simulate import SimulateRequest

if TYPE_CHECKING:
    from cryoclass.simulation.writer import Simulated


@with_request
def simulate(request: SimulateRequest) -> None:
    """Simulate tomograms, or particles, of known content.

    The species are phantoms of well-known complexes, or your own density maps. Poses are random; CTF, missing wedge
    and noise are applied. Writes a coordinates STAR file in the dialect of your choice, and the truth; with --truth also
    each particle's clean density and mask, voxel for voxel on what extract cuts with the same --box.

    SNR is the variance of the clean density in a box round each particle (after CTF and missing wedge, mean over the
    tomogram's particles) over the variance of the noise.

    Example: cryoclass simulate -o Simulated/ --species 6 --snr 0.5
    """
    _say_result(request, jobs.simulate(request, console.Heard()))


def _say_result(request: SimulateRequest, written: "Simulated") -> None:
    total, settings = sum(written.counts.values()), request.settings
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
    if request.particles:
        console.next_command(*after_boxes(written.star))
    else:
        tomograms = request.outdir / "tomograms"
        cut = ("--tomograms", tomograms, "--box", settings.box)
        console.next_command(("cryoclass", "extract", written.star, *cut))
