"""What a step of pre-training shows: boxes of new species, several of each, and what the species are like."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoclass.errors import UsageError
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
        diameter = diameters(pixel, invention)
        finest = 2 * angpix  # nothing finer is left of a density in such pixels
        drawn = draw_assemblies(
            species // pixel_sizes, diameter, (finest, max(40.0, 1.25 * finest)), generator
        )
        boxes.append(see(drawn, views, angpix, snr, invention, generator).boxes)
        descriptions.append(describe(drawn, torch.full((len(drawn),), pixel, device=generator.device)))
    return Batch(boxes=torch.cat(boxes), description=torch.cat(descriptions))


def diameters(pixel: float, invention: Invention) -> tuple[float, float]:
    """Return the smallest and largest diameter in angstroms of species that boxes can show.

    Parameters
    ----------
    pixel
        Size in angstroms of a 32nd of the box.
    invention
        The diameters wished for.

    Raises
    ------
    UsageError
        All species are too large for the box, or too small to be seen.
    """
    least, most = invention.diameter
    nearly = 1 - 1e-6  # a pixel size that was drawn may lie beyond the end of its range by rounding
    if LARGEST * pixel < nearly * least:
        raise UsageError(
            f"boxes of 32 pixels of {pixel:g} angstroms hold species of up to {LARGEST * pixel:g} angstroms, but "
            f"--diameter begins at {least:g}.",
            "Use a larger --pixel-range, or smaller species.",
        )
    if nearly * SMALLEST * pixel > most:
        raise UsageError(
            f"pixels of {pixel:g} angstroms show species of {SMALLEST * pixel:g} angstroms or more, but --diameter "
            f"ends at {most:g}.",
            "Use a smaller --pixel-range, or larger species.",
        )
    return max(least, SMALLEST * pixel), min(most, LARGEST * pixel)


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
