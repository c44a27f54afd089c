"""``cryoclass pretrain``: a network that has learnt shape, before it sees a label."""

import sys
from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import some_particles
from cryoclass.cli.options import with_request
from cryoclass.jobs.pretrain import PretrainRequest, PretrainResult

if TYPE_CHECKING:
    from cryoclass.pretraining.loop import Period


@with_request
def pretrain(request: PretrainRequest) -> None:
    """Teach a network shape, without any label.

    Invents new species at every step and shows each in noisy boxes with a missing wedge; the network learns to say what
    a species is like, whatever its orientation; with --contrast, also which boxes show the same one. Writes
    backbone.safetensors and a card, for finetune --weights and embed --weights.

    Example: cryoclass pretrain -o Pretrain --batch-species 1024 --views 2 --contrast 0.1
    """
    # A run that goes on gives what an unbroken one gives.
    command = ["cryoclass", *(word for word in sys.argv[1:] if word not in ("--resume", "--overwrite"))]
    _say_result(jobs.pretrain(request, console.Heard(_say_period), command))


def _say_period(period: "Period") -> None:
    console.note(
        f"step {period.step:6d}  describe {period.describe:.3f}  contrast {period.contrast:.3f}  "
        f"retrieval {period.retrieval:.3f}  {period.seconds:.0f} s"
    )


def _say_result(result: PretrainResult) -> None:
    periods = result.pretrained.periods
    boxes_seen, seconds = periods[-1].boxes, sum(period.seconds for period in periods)
    drawing = sum(p.drawing * p.seconds for p in periods) / seconds
    console.rows(
        "pre-trained",
        [
            ("boxes seen", f"{boxes_seen}, {seconds / boxes_seen * 1000:.2f} ms each"),
            ("drawing them", f"{drawing:.0%} of the time, beside learning"),
            (
                "retrieval",
                f"{result.pretrained.retrieval:.3f} of held-out boxes lie nearest to one of their own species",
            ),
            ("weights", result.weights),
            ("card", result.card),
        ],
    )
    start = (some_particles(), "--backbone", result.backbone, "--weights", result.weights)
    console.next_command(("cryoclass", "finetune", *start), ("cryoclass", "embed", *start))
