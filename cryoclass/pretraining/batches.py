"""What a step of pre-training shows: boxes of new species, several of each, and what the species are like."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoclass.settings import Invention, Pretraining
from cryoclass.simulate.boxes import see
from cryoclass.simulate.species import describe, draw_assemblies

SMALLEST, LARGEST = 4, 27  # pixels that a species measures across, of a box of 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Boxes, several of each species.

    Attributes
    ----------
    boxes
        Raw voxels (S, V, D, H, W), bright particles.
    description
        Of each species (S, F), see :func:`cryoclass.simulate.species.describe`.
    """

    boxes: Tensor
    description: Tensor


def draw_batch(
    species: int,
    views: int,
    pixel_sizes: int,
    snr: tuple[float, float],
    invention: Invention,
    generator: torch.Generator,
) -> Batch:
    """Invent species and show each several times.

    Parameters
    ----------
    species, views
        S and V.
    pixel_sizes
        How many different ones; all boxes of a species share one, as the boxes of a data set do.
    snr
        Lowest and highest variance of the signal over variance of the noise.
    invention
        Ranges of everything else.
    generator
        Its device is where everything is computed.
    """
    boxes, descriptions = [], []
    for _ in range(pixel_sizes):
        angpix = _log_uniform(invention.pixel_range, generator)
        pixel = angpix * invention.box / 32
        diameter = (max(invention.diameter[0], SMALLEST * pixel), min(invention.diameter[1], LARGEST * pixel))
        finest = 2 * angpix  # nothing finer is left of a density in such pixels
        drawn = draw_assemblies(
            species // pixel_sizes, diameter, (finest, max(40.0, 1.25 * finest)), generator
        )
        boxes.append(see(drawn, views, angpix, snr, invention, generator).boxes)
        descriptions.append(describe(drawn, torch.full((len(drawn),), pixel, device=generator.device)))
    return Batch(boxes=torch.cat(boxes), description=torch.cat(descriptions))


def snr_at(done: float, settings: Pretraining, invention: Invention) -> tuple[float, float]:
    """Return the SNR range after a share ``done`` of the steps: geometric from the first to the last."""
    share = min(1.0, done / settings.ramp)
    low, high = (
        first ** (1 - share) * last**share
        for first, last in zip(invention.first_snr, invention.snr, strict=True)
    )
    return low, high


def _log_uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    low, high = map(math.log, limits)
    return math.exp(low + (high - low) * float(torch.rand((), generator=generator, device=generator.device)))
