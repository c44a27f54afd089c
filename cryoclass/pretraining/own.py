"""A user's unlabelled particles as further pairs: two altered views of one box show the same particle.

What is altered is what differs between two pictures of one particle without making another particle of it: noise, the
range of tilts, a small shift, and half turns about the axes, which leave the missing wedge where it is.
"""

import torch
from torch import Tensor

from cryoclass.settings import Invention
from cryoclass.simulation.boxes import seen_by_tilts

TURNS = ((), (2, 3), (1, 3), (1, 2))  # axes of (N, D, H, W) that a half turn reverses


def altered(raw: Tensor, views: int, settings: Invention, generator: torch.Generator) -> Tensor:
    """Return altered views of boxes.

    Parameters
    ----------
    raw
        Boxes (N, side, side, side).
    views
        How many of each, V.
    settings
        ``tilt`` and ``shift`` say how far views may differ; the box must be ``side``.
    generator
        On the device of ``raw``.

    Returns
    -------
    Tensor
        (N, V, side, side, side). Added noise has the spectrum of the box itself with phases of its own, so none of it lies
        in the missing wedge.
    """
    boxes = raw.repeat_interleave(views, dim=0)
    count, side = len(boxes), boxes.shape[-1]
    spectrum = torch.fft.rfftn(boxes, dim=(1, 2, 3))
    phases = torch.fft.rfftn(torch.randn(boxes.shape, generator=generator, device=raw.device), dim=(1, 2, 3))
    noise = spectrum.abs() * phases / phases.abs().clamp_min(1e-6)
    strength = torch.rand((count, 1, 1, 1), generator=generator, device=raw.device)
    seen = seen_by_tilts(count, settings.replace(box=side), generator)
    changed = torch.fft.irfftn((spectrum + strength * noise) * seen, s=(side,) * 3, dim=(1, 2, 3))
    moved: Tensor = _moved(changed, int(settings.shift / 2), generator).unflatten(0, (len(raw), views))
    return moved


def _moved(boxes: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Turn and shift each box, by whole pixels up to ``most`` along each axis; what leaves comes in on the other side."""
    turns = torch.randint(len(TURNS), (len(boxes),), generator=generator, device=boxes.device).tolist()
    shifts = torch.randint(
        -most, most + 1, (len(boxes), 3), generator=generator, device=boxes.device
    ).tolist()
    moved = []
    for box, turn, shift in zip(boxes[:, None], turns, shifts, strict=True):
        moved.append(torch.roll(reversed_about_centre(box, TURNS[turn]), shift, dims=(1, 2, 3)))
    return torch.cat(moved)


def reversed_about_centre(boxes: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Reverse axes so that the central voxel, ``n // 2`` of n, stays where it is; two axes make a half turn.

    Reversing an even axis alone would move the particle by one voxel. What leaves at one end comes in at the other.
    """
    moved = tuple(1 - boxes.shape[axis] % 2 for axis in axes)
    return boxes.flip(axes).roll(moved, axes) if axes else boxes
