"""``cryoclass pretrain``: a network that has learnt shape, before it sees a label."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoclass.cli import console
from cryoclass.cli.options import (
    BoxToCut,
    Device,
    Outdir,
    Overwrite,
    Resume,
    Threads,
    claim_run,
    with_settings,
)
from cryoclass.errors import UsageError
from cryoclass.settings import BoxOrigin, Cutting, Invention, Learner, Pretraining

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryoclass.pretraining.loop import Period, Pretrained
    from cryoclass.training.boxes import KeptBoxes


@with_settings
def pretrain(
    particles: Annotated[
        Path | None,
        typer.Argument(
            metavar="PARTICLES",
            help="STAR file of your own unlabelled particles, as further pairs; invented species alone where left out.",
            show_default=False,
        ),
    ] = None,
    outdir: Outdir = Path("Pretrain"),
    device: Device = "auto",
    jobs: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    box: BoxToCut = None,
    *,
    pretraining: Pretraining,
    invention: Invention,
    learner: Learner,
    boxes: BoxOrigin,
    cutting: Cutting,
) -> None:
    """Teach a network shape, without any label.

    Invents new species at every step and shows each in noisy boxes with a missing wedge; the network learns to say what
    a species is like, whatever its orientation; with --contrast, also which boxes show the same one. Writes
    backbone.safetensors and a card, for finetune --weights and embed --weights.

    Example: cryoclass pretrain -o Pretrain --batch-species 1024 --views 2 --contrast 0.1
    """
    claim_run(outdir, "backbone.json", resume=resume, overwrite=overwrite)
    _check_own(particles, pretraining)
    import torch

    from cryoclass.backbones.registry import load_backbone, spec
    from cryoclass.devices import choose_device
    from cryoclass.pretraining.card import HISTORY, make_card, write_backbone
    from cryoclass.pretraining.loop import PretrainingRun
    from cryoclass.pretraining.loop import pretrain as train
    from cryoclass.training.outputs import write_history

    if jobs is not None:
        torch.set_num_threads(jobs)
    name = learner.backbone
    entry = spec(name)
    wish = entry.preparation(learner.input_size).replace(depth=learner.depth, beam_axis=learner.beam_axis)
    preparation = entry.prepare(wish, invention.box)
    place = choose_device(device)
    own = _read_own(particles, boxes, cutting, box)
    torch.manual_seed(pretraining.seed)
    backbone = load_backbone(name, weights=learner.weights, as_pretrained=True, track=console.track)
    start = str(learner.weights) if learner.weights else entry.trained_on or "random"
    console.note(f"{name}, start: {start}, on {place}, {torch.get_num_threads()} threads")

    def tell(periods: "Sequence[Period]") -> None:
        write_history(outdir / HISTORY, periods)
        _say_period(periods[-1])

    run = PretrainingRun(
        device=place,
        folder=outdir,
        resume=resume,
        own=own,
        facts={"backbone": name, "start": start, "particles": str(particles)},
        track=console.track,
        on_period=tell,
    )
    result = train(backbone, preparation, pretraining, invention, run)
    facts = {
        # A resumed run gives what an unbroken one gives.
        "command": ["cryoclass", *(word for word in sys.argv[1:] if word != "--resume")],
        "start": start,
        "device": str(place),
        "own_particles": len(own.rows) if own else 0,
    }
    write_history(outdir / HISTORY, result.periods)
    write_backbone(outdir, backbone, make_card(name, preparation, pretraining, invention, result, facts))
    _say_result(outdir, name, result)


def _check_own(particles: Path | None, settings: Pretraining) -> None:
    if particles is not None and not settings.contrast:
        raise UsageError(
            "nobody knows what your own particles are like; they can only be compared.",
            "Add --views 2 --contrast 0.1.",
        )


def _read_own(
    particles: Path | None, boxes: BoxOrigin, cutting: Cutting, box: int | None
) -> "KeptBoxes | None":
    """Read the user's own particles, as many as fit into memory."""
    if particles is None:
        return None
    import numpy as np

    from cryoclass.cli.sources import open_source
    from cryoclass.particles import read_particles
    from cryoclass.training.boxes import read_boxes

    table = read_particles(particles)
    source = open_source(table, boxes, cutting, box)
    read = read_boxes(source, np.arange(len(table)), None, console.track)
    if not len(read.rows):
        raise UsageError(f"none of the {len(table)} particles of {particles} can be read.")
    console.note(f"{len(read.rows)} of {len(table)} particles of {particles} take part")
    return read


def _say_period(period: "Period") -> None:
    console.note(
        f"step {period.step:6d}  describe {period.describe:.3f}  contrast {period.contrast:.3f}  "
        f"retrieval {period.retrieval:.3f}  {period.seconds:.0f} s"
    )


def _say_result(outdir: Path, name: str, result: "Pretrained") -> None:
    from cryoclass.pretraining.card import CARD, WEIGHTS

    periods, boxes_seen = result.periods, result.periods[-1].boxes
    seconds = sum(period.seconds for period in periods)
    console.rows(
        "pre-trained",
        [
            (
                "boxes seen",
                f"{boxes_seen}, {seconds / boxes_seen * 1000:.2f} ms each",
            ),
            (
                "drawing them",
                f"{sum(p.drawing * p.seconds for p in periods) / seconds:.0%} of the time, beside learning",
            ),
            (
                "retrieval",
                f"{result.retrieval:.3f} of held-out boxes lie nearest to one of their own species",
            ),
            ("weights", outdir / WEIGHTS),
            ("card", outdir / CARD),
        ],
    )
    console.next_command(
        f"cryoclass finetune particles.star --backbone {name} --weights {outdir / WEIGHTS}",
        f"cryoclass embed particles.star --backbone {name} --weights {outdir / WEIGHTS}",
    )
