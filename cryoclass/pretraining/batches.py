"""What a step of pre-training shows: boxes of new species, several of each, and what the species are like."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoclass.errors import UsageError
from cryoclass.settings import Invention, Pretraining
from cryoclass.simulation.boxes import see
from cryoclass.simulation.drawing import log_uniform
from cryoclass.simulation.species import Assemblies, describe, draw_assemblies
from cryoclass.volumes.mask import MASK_SHARE

SMALLEST, LARGEST = 4, 27  # pixels that a species measures across, of a box of 32


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesBatch:
    """Boxes, several of each species.

    Attributes
    ----------
    boxes
        Raw voxels (S, V, D, H, W), bright particles.
    description
        Of each species (S, F), see :func:`cryoclass.simulation.species.describe`.
    """

    boxes: Tensor
    description: Tensor


def draw_batch(
    species: int,
    views: int,
    snr: tuple[float, float],
    invention: Invention,
    generator: torch.Generator,
) -> SpeciesBatch:
    """Invent species and show each several times.

    Parameters
    ----------
    species, views
        S and V.
    snr
        Lowest and highest variance of the signal over variance of the noise.
    invention
        Ranges of everything else.
    generator
        Its device is where everything is computed.

    Raises
    ------
    UsageError
        As :func:`check_sizes`.
    """
    drawn, angpix = invent(species, invention, generator)
    return SpeciesBatch(
        boxes=see(drawn, views, angpix, snr, invention, generator).boxes,
        description=describe(drawn, angpix * invention.box / 32),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueBoxes:
    """Boxes of species, and what is true of each of their voxels.

    Attributes
    ----------
    boxes
        Raw voxels (N, D, H, W), bright particles.
    masks
        1 where a voxel belongs to the particle in the middle, else 0, (N, D, H, W).
    densities
        That particle alone, background 0 and deviation 1 over a box, (N, D, H, W).
    """

    boxes: Tensor
    masks: Tensor
    densities: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> "TrueBoxes":
        """Return the same boxes on another device."""
        return TrueBoxes(
            boxes=self.boxes.to(device), masks=self.masks.to(device), densities=self.densities.to(device)
        )


def draw_true_boxes(
    species: int,
    views: int,
    snr: tuple[float, float],
    invention: Invention,
    generator: torch.Generator,
) -> TrueBoxes:
    """Invent species, show each several times, and say what is true of each voxel; parameters as :func:`draw_batch`."""
    drawn, angpix = invent(species, invention, generator)
    seen = see(drawn, views, angpix, snr, invention, generator)
    highest = seen.density.amax((1, 2, 3), keepdim=True)
    deviation = seen.density.std((1, 2, 3), correction=0, keepdim=True)
    return TrueBoxes(
        boxes=seen.boxes.flatten(0, 1),
        masks=(seen.density > MASK_SHARE * highest).float(),
        densities=seen.density / deviation,
    )


def invent(species: int, invention: Invention, generator: torch.Generator) -> tuple[Assemblies, Tensor]:
    """Return new species, and the pixel size in angstroms of the boxes that are to show each, (S,).

    Raises
    ------
    UsageError
        As :func:`check_sizes`.
    """
    check_sizes(invention)
    angpix = log_uniform((species,), *invention.pixel_range, generator)
    finest = 2 * angpix  # nothing finer is left of a density in such pixels
    resolution = (finest, (1.25 * finest).clamp(min=40.0))
    size = diameters(angpix * invention.box / 32, invention)
    return draw_assemblies(species, size, resolution, generator), angpix


def diameters(pixel: Tensor, invention: Invention) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest diameters in angstroms of species that boxes can show.

    Parameters
    ----------
    pixel
        Sizes in angstroms of a 32nd of the box, (S,).
    invention
        The diameters wished for.
    """
    least, most = invention.diameter
    return (SMALLEST * pixel).clamp(min=least), (LARGEST * pixel).clamp(max=most)


def check_sizes(invention: Invention) -> None:
    """Refuse boxes that no species suits.

    Raises
    ------
    UsageError
        At an end of the range of pixel sizes, all species are too large for the box, or too small to be seen.
    """
    least, most = invention.diameter
    smallest, largest = (angpix * invention.box / 32 for angpix in invention.pixel_range)
    if LARGEST * smallest < least:
        raise UsageError(
            f"boxes of 32 pixels of {smallest:g} angstroms hold species of up to {LARGEST * smallest:g} angstroms, but "
            f"--diameter begins at {least:g}.",
            "Use a larger --pixel-range, or smaller species.",
        )
    if SMALLEST * largest > most:
        raise UsageError(
            f"pixels of {largest:g} angstroms show species of {SMALLEST * largest:g} angstroms or more, but --diameter "
            f"ends at {most:g}.",
            "Use a smaller --pixel-range, or larger species.",
        )


def snr_at(done: float, settings: Pretraining, invention: Invention) -> tuple[float, float]:
    """Return the SNR range after a share ``done`` of the steps: geometric from the first to the last."""
    share = min(1.0, done / settings.ramp)
    low, high = (
        first ** (1 - share) * last**share
        for first, last in zip(invention.first_snr, invention.snr, strict=True)
    )
    return low, high
