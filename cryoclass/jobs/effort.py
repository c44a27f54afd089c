"""What the next step will take: time, measured on a few boxes, and memory, counted."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cryoclass.backbones.registry import build_backbone
from cryoclass.checks.findings import Finding, duration, ok, size, warning
from cryoclass.inference.engines import Engine
from cryoclass.settings import Size3

SECONDS = 1.0
BATCH = 32  # the default of --batch-size
# Measured on r3d10 and r3d34 (torch 2.15, CPU): a network in use holds about twice its largest layer output; one that
# learns holds nearly twice all of them, and its weights with gradients and Adam's two moments.
FORWARD_COPIES = 2.2
TRAINING_COPIES = 1.8
OPTIMISER_COPIES = 4
BACKWARD_PASSES = 3  # a step costs about three forward passes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs.

    Attributes
    ----------
    seconds
        Time of a forward pass, per box.
    forward, training
        Bytes per box while it predicts, and while it learns.
    weights
        Bytes.
    """

    seconds: float
    forward: int
    training: int
    weights: int


def measure(engine: Engine) -> Cost:
    """Run an engine on noise for about a second, and count what its layers hold."""
    one = np.random.default_rng(0).standard_normal((1, *engine.card.box)).astype(np.float32)
    _seconds(engine, one)  # the first pass also makes plans and allocates
    quick = SECONDS / 4 / _seconds(engine, one)
    batch = int(np.clip(quick, 1, BATCH))
    seconds = _seconds(engine, np.repeat(one, batch, axis=0), SECONDS)
    card = engine.card
    largest, total, weights = _bytes(card.backbone, card.preparation.seen(card.box[0]))
    return Cost(
        seconds=seconds,
        forward=int(FORWARD_COPIES * largest),
        training=int(TRAINING_COPIES * total),
        weights=weights,
    )


def _seconds(engine: Engine, voxels: np.ndarray, least: float = 0.0) -> float:
    """Run an engine for a time at least, and once at least; return the seconds per box."""
    runs, start = 0, time.perf_counter()
    while not runs or time.perf_counter() - start < least:
        engine.run(voxels)
        runs += 1
    return (time.perf_counter() - start) / (runs * len(voxels))


def _bytes(backbone: str, input_size: Size3) -> tuple[int, int, int]:
    """Return the bytes of the largest layer output, of all outputs and of the weights, without computing anything."""
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    with torch.device("meta"):
        network = build_backbone(backbone).eval()
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(note)
        with torch.inference_mode():
            network(torch.zeros(1, 1, *input_size))
    return max(sizes), sum(sizes), sum(p.nbytes for p in network.parameters())


def check_prediction(cost: Cost, count: int, verb: str, memory: int) -> Iterator[Finding]:
    """Estimate a pass over all particles; ``memory`` is what is free, in bytes."""
    needed = cost.weights + BATCH * cost.forward
    words = (
        f"{verb} {count} particles: about {duration(count * cost.seconds)} of computing and "
        f"{size(needed)} of memory with --batch-size {BATCH} (estimates)"
    )
    yield from _if_it_fits(words, needed, memory)


def check_training(cost: Cost, count: int, backbone: str, memory: int) -> Iterator[Finding]:
    """Estimate an epoch over the labelled particles; ``memory`` is what is free, in bytes."""
    needed = OPTIMISER_COPIES * cost.weights + BATCH * cost.training
    words = (
        f"finetune {backbone} on {count} labelled particles: about "
        f"{duration(BACKWARD_PASSES * count * cost.seconds)} per epoch and {size(needed)} of memory with "
        f"--batch-size {BATCH} (estimates)"
    )
    yield from _if_it_fits(words, needed, memory)


def _if_it_fits(words: str, needed: int, memory: int) -> Iterator[Finding]:
    if needed > memory:
        yield warning("next step", f"{words}; {size(memory)} are free", "Use a smaller --batch-size.")
    else:
        yield ok("next step", words)


def check_extraction(count: int, needed: int, seconds: float, cores: int) -> Iterator[Finding]:
    """Estimate the time to cut and write all particles, from the time to cut one."""
    yield ok(
        "next step",
        f"extract {count} particles: about {duration(count * seconds / cores)}, {size(needed)} (estimates)",
    )
