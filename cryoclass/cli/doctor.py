"""``cryoclass doctor``: what would go wrong, before it costs anything."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import same_boxes
from cryoclass.cli.options import typed, with_request
from cryoclass.jobs.doctor import ASSUMED_BOX, DoctorRequest, DoctorResult, Step
from cryoclass.settings import Start

if TYPE_CHECKING:
    from cryoclass.checks.findings import Finding


@with_request
def doctor(
    request: DoctorRequest,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list of level, topic, words and way_out.")
    ] = False,
) -> None:
    """Look at STAR file, tomograms, model and machine before any time is spent.

    Takes the options of the command that you mean to run, and says what it understands and what would go wrong: one
    line per check. With no arguments it looks at the machine. Exit status 1 where there is an error.

    Example: cryoclass doctor particles.star --tomograms Tomograms/ --box 32 --model Finetune/
    """
    result = jobs.doctor(request, console.Heard(_ignore if as_json else _say))
    if as_json:
        console.say(json.dumps([finding.to_dict() for finding in result.findings], indent=1))
    else:
        _say_result(request, result)
    if any(finding.level == "error" for finding in result.findings):
        raise typer.Exit(1)


def _ignore(_finding: "Finding") -> None:
    """Wait: JSON is printed in one piece."""


def _say(finding: "Finding") -> None:
    console.verdict(finding.level, finding.topic, finding.words, finding.way_out)


def _say_result(request: DoctorRequest, result: DoctorResult) -> None:
    from cryoclass.checks.findings import plural

    levels = Counter(finding.level for finding in result.findings)
    found = [(levels["error"], "error"), (levels["warning"], "warning")]
    counts = [plural(count, noun) for count, noun in found if count]
    untold = f"{plural(levels['unknown'], 'thing')} could not be told" if levels["unknown"] else ""
    verdict = " and ".join(counts) or ("nothing wrong found" if untold else "all is well")
    console.say("; ".join(filter(None, [verdict, untold])))
    if result.step is not None and not levels["error"]:
        console.next_command(["cryoclass", result.step, result.particles, *_options(request, result.step)])


def _options(request: DoctorRequest, step: Step) -> list[object]:
    """Return the options of the next command: those given to the doctor, and the box where one is cut that no model knows."""
    words: list[object] = [*same_boxes(request.boxes, request.cutting)]
    with_model = step == "predict" or (step == "embed" and request.choice.given)
    if with_model:
        words += typed(request.choice)
    elif step == "extract" or request.boxes.tomograms is not None:
        words += ["--box", request.box or ASSUMED_BOX]
    if not with_model and step != "extract" and request.backbone != Start().backbone:
        words += ["--backbone", request.backbone]
    if step == "finetune" and request.label_column is not None:
        words += ["--label-column", request.label_column]
    return words
