"""``cryoclass extract``: from coordinates and tomograms to subtomograms."""

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import after_boxes
from cryoclass.cli.options import with_request
from cryoclass.jobs.extract import ExtractRequest, ExtractResult


@with_request
def extract(request: ExtractRequest) -> None:
    """Cut subtomograms out of tomograms.

    Reads the coordinates of a RELION or Warp STAR file. Writes one .mrc per particle, and your STAR file with the
    images added, which RELION reads.

    Example: cryoclass extract coordinates.star --tomograms Tomograms/ --box 32 --angpix 10
    """
    _say_result(request, jobs.extract(request, console.Heard()))


def _say_result(request: ExtractRequest, result: ExtractResult) -> None:
    extracted, left_out = result.extracted, len(result.extracted.left_out)
    reasons = f"{left_out}, reasons in {request.outdir / 'skipped.csv'}" if left_out else "none"
    console.rows(
        "extracted",
        [
            ("particles", f"{len(extracted.rows)} of {result.count}, from {result.tomograms} tomograms"),
            ("box", f"{request.settings.box} pixels of {extracted.angpix:.4g} A"),
            ("left out", reasons),
            ("table", result.table),
            ("look at", result.page),
        ],
    )
    console.next_command(*after_boxes(result.table))
