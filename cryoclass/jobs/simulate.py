"""Data with known truth, to try everything on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.claims import claim
from cryoclass.progress import TO_LOG, Listener
from cryoclass.records import Workplace, Writes
from cryoclass.settings import Request, Simulation, outdir_setting, setting

if TYPE_CHECKING:
    from cryoclass.simulation.writer import Simulated


TRUTH = "truth.star"  # comes last and says that all is there
WRITES = Writes(
    command="simulate",
    last=TRUTH,
    files=("coordinates.star", "particles.star"),
    folders=("tomograms", "Subtomograms", "Masks", "Densities"),
)


@dataclass(frozen=True, kw_only=True)
class SimulateRequest(Request):
    """What to simulate."""

    outdir: Path = outdir_setting("Simulated")
    maps: Path | None = setting(
        None,
        unit="dir",
        help="Folder of density maps (MRC), one per species, instead of the built-in phantoms.",
    )
    particles: bool = setting(
        False, flags=("--particles",), help="Write particles directly, without tomograms."
    )
    truth: bool = setting(
        False,
        flags=("--truth",),
        help="Write of each particle its clean density, and a mask of it alone, as it lies in its box of --box pixels.",
    )
    settings: Simulation = Simulation()


def simulate(request: SimulateRequest, listener: Listener = TO_LOG) -> "Simulated":
    """Simulate tomograms, or particles, of known content; write them, the table and the truth.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    with claim(request.outdir, WRITES, overwrite=request.overwrite) as place:
        return _simulate(request, place, listener)


def _simulate(request: SimulateRequest, place: Workplace, listener: Listener) -> "Simulated":
    from cryoclass.checks.disk import check_disk
    from cryoclass.checks.findings import enforce
    from cryoclass.simulation.maps import read_maps
    from cryoclass.simulation.phantoms import phantom_densities
    from cryoclass.simulation.writer import write_particles, write_tomograms

    settings = request.settings
    shapes = (
        read_maps(request.maps, settings.angpix, settings.box)
        if request.maps
        else phantom_densities(settings)
    )
    enforce(check_disk(request.outdir, _bytes(request, len(shapes))), listener)
    place.begin()
    write = write_particles if request.particles else write_tomograms
    return write(request.outdir, shapes, settings, listener.track, truth=request.truth)


def _bytes(request: SimulateRequest, maps: int) -> int:
    """Return the bytes of all volumes."""
    from cryoclass.volumes.mrc import volume_bytes

    settings = request.settings
    each = request.particles + 2 * request.truth  # subtomogram; mask and density
    boxes = each * (settings.species or maps) * settings.per_species * volume_bytes(settings.box, "float32")
    if request.particles:
        return boxes
    voxel = 2 if settings.dialect == "warp" else 4
    return boxes + settings.tomograms * voxel * math.prod(settings.size)
