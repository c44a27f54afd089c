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
    """Teach a network shape, or masks and densities, without any label.

    Invents new species at every step and shows each in noisy boxes with a missing wedge; the network learns to say what
    a species is like, whatever its orientation; with --contrast, also which boxes show the same one. Writes
    backbone.safetensors and a card, for finetune --weights and embed --weights.

    With --tasks segment,recover, learns which voxels belong to a particle, and what it looks like without noise and
    missing wedge, whatever it is; writes a model folder, for predict --model and finetune --init.

    Example: cryoclass pretrain -o Pretrain --batch-species 1024 --views 2 --contrast 0.1
    """
    # A run that goes on gives what an unbroken one gives.
    command = ["cryoclass", *(word for word in sys.argv[1:] if word not in ("--resume", "--overwrite"))]
    _say_result(jobs.pretrain(request, console.Heard(_say_period), command))


def _say_period(period: "Period") -> None:
    figures = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in period.figures.items())
    console.note(f"step {period.step:6d}  {figures}  {period.seconds:.0f} s")


def _say_result(result: PretrainResult) -> None:
    periods = result.periods
    boxes_seen, seconds = periods[-1].boxes, sum(period.seconds for period in periods)
    drawing = sum(p.drawing * p.seconds for p in periods) / seconds
    console.rows(
        "pre-trained",
        [
            ("boxes seen", f"{boxes_seen}, {seconds / boxes_seen * 1000:.2f} ms each"),
            ("drawing them", f"{drawing:.0%} of the time, beside learning"),
            *result.scores.items(),
            ("weights", result.weights),
            ("card", result.card),
        ],
    )
    if result.model is not None:
        console.next_command(("cryoclass", "predict", some_particles(), "--model", result.model))
        return
    start = (some_particles(), "--backbone", result.backbone, "--weights", result.weights)
    console.next_command(("cryoclass", "finetune", *start), ("cryoclass", "embed", *start))
