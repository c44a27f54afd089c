"""``cryoclass doctor``: what would go wrong, before it costs anything."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.doctor import DoctorRequest, DoctorResult
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
        console.next_command(" ".join(["cryoclass", result.step, *_words(request, result)]))


def _words(request: DoctorRequest, result: DoctorResult) -> list[str]:
    """Return the words of the next command, as far as they were given."""
    options: dict[str, object] = {"--tomograms": request.boxes.tomograms}
    match result.step:
        case "extract":
            options |= {"--box": request.box or 32, "--angpix": request.boxes.angpix}
        case "predict":
            options |= {"--model": request.choice.model, "--onnx": request.choice.onnx}
        case _:
            options |= {"--backbone": None if request.backbone == Start().backbone else request.backbone}
    return [
        str(result.particles),
        *(f"{flag} {value}" for flag, value in options.items() if value is not None),
    ]
