"""How ``finetune`` and ``pretrain`` go on after a kill, and start anew where that is asked."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cryoclass.progress import Listener
from cryoclass.records import Workplace

if TYPE_CHECKING:
    from cryoclass.jobs.finetune import FinetuneRequest
    from cryoclass.jobs.pretrain import PretrainRequest
    from cryoclass.training.checkpoint import Keeping


def keeping(request: "FinetuneRequest | PretrainRequest", listener: Listener) -> "Keeping":
    """Return where a run keeps its checkpoints, and how."""
    from cryoclass.training.checkpoint import Keeping

    return Keeping(
        folder=request.outdir,
        seconds=request.checkpoint_seconds,
        overwrite=request.overwrite,
        note=listener.note,
        warn=listener.warn,
    )


def before_work(
    request: "FinetuneRequest | PretrainRequest", place: Workplace, listener: Listener
) -> Callable[[int], None]:
    """Return what is called with the bytes that a run will write, when all that it needs is there.

    It refuses a disk that is too small. Then, where a finished run is to be replaced, its mark and its checkpoints go, before
    anything else changes; those of an interrupted run stay, and the same run goes on from them.

    Parameters
    ----------
    request
        What is asked for.
    place
        Its folder.
    listener
        Hears what could not be told.
    """

    def start(needed: int) -> None:
        from cryoclass.checks.disk import check_disk
        from cryoclass.checks.findings import enforce
        from cryoclass.training.checkpoint import remove_checkpoints

        enforce(check_disk(request.outdir, needed, less="a smaller --backbone"), listener)
        finished = place.mark.exists()
        if finished and request.resume:
            return  # what its checkpoint says is known later
        place.begin()
        if finished:
            remove_checkpoints(request.outdir)

    return start
