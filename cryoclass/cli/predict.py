"""``cryoclass predict``: classes and probabilities for every particle, in the user's own STAR file."""

from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.predict import PredictRequest, PredictResult

USUAL = 1  # unknown score, above which particles of known classes hardly lie

if TYPE_CHECKING:
    from cryoclass.results import Decisions


@with_request
def predict(request: PredictRequest) -> None:
    """Classify particles with a model folder or an exported ONNX file.

    Writes your STAR file back with nothing lost and these columns added: rlnClassNumber (from 1), the probability in
    rlnMaxValueProbDistribution, and class names, all probabilities, status and unknown score in cryoclass* columns. What
    the network said is kept in outputs/: another --min-probability, with --overwrite, then takes no second pass.

    --tasks segment,recover writes a mask and a clean density for each particle: what a model of finetune --tasks says, or,
    without --model and --onnx, weights that come with cryoclass and hold for particles of any kind.

    Example: cryoclass predict particles.star --onnx model.onnx --split-classes
    """
    result = jobs.predict(request, console.Heard())
    _say_result(result)
    _say_scores(result)
    _say_next(result)


def _say_result(result: PredictResult) -> None:
    if result.decisions is None:
        lost = ("unreadable", str(result.unreadable))
    else:
        _say_classes(result, result.decisions)
        lost = ("no class", _without_class(result.decisions))
    console.rows(
        "written",
        [
            lost,
            *((name, f"{result.done} of them in {folder}") for name, folder in result.volumes.items()),
            *(
                [("averages", f"{len(result.averages)} in {result.averages[0].parent}")]
                if result.averages
                else []
            ),
            *_tomograms(result),
            ("table", result.table),
            *(("also", part) for part in (*result.parts, *result.sets)),
            ("look at", result.page),
        ],
    )


def _without_class(decisions: "Decisions") -> str:
    unsure, unknown, unreadable = (
        int((decisions.status == how).sum()) for how in ("unsure", "unknown", "unreadable")
    )
    words = f"{unsure} below --min-probability, {unreadable} unreadable"
    if decisions.unknown is None:
        return words
    above = int((decisions.unknown[decisions.done] > USUAL).sum())
    return f"{unknown} above --unknown-threshold, {words}; {above} have an unknown score above {USUAL}"


def _tomograms(result: PredictResult) -> list[tuple[str, str]]:
    if result.tomograms is None:
        return []
    count, odd = len(result.tomograms.counted.names), result.tomograms.odd
    unlike = f"{len(odd) or 'none'} unlike the others" if odd is not None else "unlike ones could not be told"
    return [("tomograms", f"{count}, {unlike}; {result.table.parent / 'tomograms.csv'}")]


def _say_classes(result: PredictResult, decisions: "Decisions") -> None:
    total = len(decisions.classes)
    counts = [int((decisions.classes == number).sum()) for number in range(len(result.classes))]
    console.columns(
        "predicted",
        ["class", "number", "particles", "share"],
        [
            [name, number, count, f"{100 * count / total:.1f} %"]
            for number, (name, count) in enumerate(zip(result.classes, counts, strict=True), 1)
        ],
    )


def _say_next(result: PredictResult) -> None:
    """Let RELION select the largest class: of one without particles it would write nothing that can be read."""
    if result.decisions is None:
        return
    sizes = [int((result.decisions.classes == number).sum()) for number in range(len(result.classes))]
    number = sizes.index(max(sizes)) + 1
    if max(sizes):
        chosen = ("--select", "rlnClassNumber", "--minval", number, "--maxval", number)
        handler = ("relion_star_handler", "--i", result.table, "--o", f"class{number}.star")
        console.next_command((*handler, *chosen))


def _say_scores(result: PredictResult) -> None:
    from cryoclass.metrics import LABELS_MAY_BE_KNOWN

    scores = result.scores
    if scores is None:
        return
    console.rows(
        "against the labels in the file",
        [("labelled", scores.count), *scores.in_words.items(), ("mind", LABELS_MAY_BE_KNOWN)],
    )
    for caveat in scores.caveats:
        console.warn(caveat)
