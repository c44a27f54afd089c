"""``cryoclass doctor``: what would go wrong, before it costs anything."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.options import (
    BoxToCut,
    Device,
    Jobs,
    LabelColumn,
    ModelFolder,
    OnnxFile,
    Rescale,
    cores,
    particles_path,
    with_settings,
)
from cryoclass.doctor.findings import plural
from cryoclass.errors import UsageError
from cryoclass.settings import BoxOrigin, Cutting, Start

if TYPE_CHECKING:
    from cryoclass.doctor.examine import Request, Step
    from cryoclass.doctor.findings import Finding, Level


@with_settings
def doctor(
    particles: Annotated[
        Path | None,
        typer.Argument(
            metavar="PARTICLES",
            help="STAR file; particles.star in the current folder where only --tomograms is given.",
            show_default=False,
        ),
    ] = None,
    model: ModelFolder = None,
    onnx: OnnxFile = None,
    outdir: Annotated[
        Path,
        typer.Option("--outdir", "-o", metavar="DIR", help="Where results shall go; nothing is written."),
    ] = Path(),
    box: BoxToCut = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter",
            metavar="ANGSTROMS",
            min=0,
            help="Particles closer than this are doubles; a third of the box where left out.",
            show_default=False,
        ),
    ] = None,
    label_column: LabelColumn = None,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Without a model: what finetune would take.")
    ] = Start().backbone,
    device: Device = "auto",
    jobs: Jobs = cores(),
    rescale: Rescale = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list of level, topic, words and way_out.")
    ] = False,
    *,
    boxes: BoxOrigin,
    cutting: Cutting,
) -> None:
    """Look at STAR file, tomograms, model and machine before any time is spent.

    Takes the options of the command that you mean to run, and says what it understands and what would go wrong: one
    line per check. With no arguments it looks at the machine. Exit status 1 where there is an error.

    Example: cryoclass doctor particles.star --tomograms Tomograms/ --box 32 --model Finetune/
    """
    if model is not None and onnx is not None:
        raise UsageError("give one of --model and --onnx.")
    if particles is not None or boxes.tomograms is not None:
        particles = particles_path(particles)
    from cryoclass.doctor.examine import Examination, Request

    request = Request(
        particles=particles,
        model=model,
        onnx=onnx,
        outdir=outdir,
        box=box,
        diameter=diameter,
        label_column=label_column,
        backbone=backbone,
        device=device,
        cores=jobs,
        rescale=rescale,
        boxes=boxes,
        cutting=cutting,
    )
    examination = Examination(request, _ignore if as_json else _say)
    examination.run()
    levels = Counter(finding.level for finding in examination.findings)
    if as_json:
        console.say(json.dumps([dataclasses.asdict(finding) for finding in examination.findings], indent=1))
    else:
        _say_result(levels, request, examination.step)
    if levels["error"]:
        raise typer.Exit(1)


def _ignore(_finding: "Finding") -> None:
    """Wait: JSON is printed in one piece."""


def _say(finding: "Finding") -> None:
    console.verdict(finding.level, finding.topic, finding.words, finding.way_out)


def _say_result(levels: "Counter[Level]", request: "Request", step: "Step | None") -> None:
    found = [(levels["error"], "error"), (levels["warning"], "warning")]
    counts = [plural(count, noun) for count, noun in found if count]
    console.say(" and ".join(counts) or "all is well")
    if step is not None and not levels["error"]:
        console.next_command(" ".join(["cryoclass", step, *_words(request, step)]))


def _words(request: "Request", step: "Step") -> list[str]:
    """Return the words of the next command, as far as they were given."""
    options: dict[str, object] = {"--tomograms": request.boxes.tomograms}
    match step:
        case "extract":
            options |= {"--box": request.box or 32, "--angpix": request.boxes.angpix}
        case "predict":
            options |= {"--model": request.model, "--onnx": request.onnx}
        case _:
            options |= {"--backbone": None if request.backbone == Start().backbone else request.backbone}
    return [
        str(request.particles),
        *(f"{flag} {value}" for flag, value in options.items() if value is not None),
    ]
