"""What would go wrong, before it costs anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoclass.errors import UsageError
from cryoclass.jobs.opening import particles_path
from cryoclass.progress import TO_LOG, Listener
from cryoclass.settings import (
    BoxOrigin,
    Cutting,
    ModelChoice,
    Settings,
    Start,
    box_to_cut_setting,
    device_setting,
    label_column_setting,
    setting,
)

if TYPE_CHECKING:
    from cryoclass.checks.findings import Finding


ASSUMED_BOX = 32  # pixels, where nobody says one
Step = Literal["extract", "finetune", "predict", "embed"]


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Settings):
    """What the next command will be given; nothing looks at the machine alone."""

    panel = "Options"

    particles: Path | None = setting(
        None,
        argument=True,
        unit="particles",
        help="STAR file; particles.star in the current folder where only --tomograms is given.",
    )
    command: Step | None = setting(
        None,
        flags=("--for",),
        unit="command",
        help="What you mean to run: extract, finetune, predict or embed; guessed from the rest where left out.",
    )
    choice: ModelChoice = ModelChoice()
    outdir: Path = setting(
        Path(), flags=("--outdir", "-o"), unit="dir", help="Where results shall go; nothing is written."
    )
    box: int | None = box_to_cut_setting()
    diameter: float | None = setting(
        None,
        unit="angstroms",
        help="Particles closer than this are doubles; a third of the box where left out.",
        minimum=0,
    )
    label_column: str | None = label_column_setting()
    backbone: str = setting(Start().backbone, unit="name", help="Without a model: what finetune would take.")
    device: str = device_setting()
    num_workers: int | None = setting(
        None,
        flags=("--num-workers", "-j", "--j"),
        unit="n",
        help="Cores that the command would use; all there are where left out.",
        minimum=1,
    )
    boxes: BoxOrigin = BoxOrigin()
    cutting: Cutting = Cutting()


@dataclass(frozen=True, kw_only=True)
class DoctorResult:
    """What the doctor found.

    Attributes
    ----------
    findings
        In the order in which a run would meet them.
    step
        The command that is meant, or can be run next with what was given; None where there is none.
    particles
        The table that was looked at.
    """

    findings: "tuple[Finding, ...]"
    step: Step | None
    particles: Path | None


def doctor(request: DoctorRequest, listener: Listener = TO_LOG) -> DoctorResult:
    """Look at table, tomograms, model and machine before any time is spent; the listener is told each finding.

    Raises
    ------
    UsageError
        What was asked for contradicts itself; anything else is a finding.
    """
    if request.choice.model is not None and request.choice.onnx is not None:
        raise UsageError("give one of --model and --onnx.")
    if request.particles is not None or request.boxes.tomograms is not None:
        request = request.replace(particles=particles_path(request.particles))
    from cryoclass.jobs.examination import Examination

    examination = Examination(request, listener.tell)
    examination.run()
    return DoctorResult(
        findings=tuple(examination.findings), step=examination.step, particles=request.particles
    )
