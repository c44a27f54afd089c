"""``cryoclass select``: the particles of a class, by the error that is accepted."""

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.select import SelectRequest


@with_request
def select(request: SelectRequest) -> None:
    """Keep the particles of a class, by the error that you accept.

    Reads what predict has written, and computes nothing anew. Probabilities are calibrated, so that their mean over the
    kept particles is the share of them that is expected to be right, in a list whose mix is like that of the labelled
    particles. What is unlike everything learnt is left out.

    Example: cryoclass select Predict/ --class ribosome --max-fdr 0.05 -o ribosome.star
    """
    result = jobs.select(request, console.Heard())
    promise = result.promise.in_words
    console.rows(
        f"selected: {request.class_name}",
        [
            ("kept", f"{promise.pop('kept')} of {result.total}"),
            *promise.items(),
            ("file", result.file),
        ],
    )
    console.next_command(("relion_star_handler", "--i", result.file, "--stats"))
