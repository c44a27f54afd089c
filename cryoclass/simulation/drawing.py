"""Random numbers for species and boxes: every tensor is drawn on the device of its generator."""

import torch
from torch import Tensor

Limit = float | Tensor
"""An end of a range: one for all, or one for each."""


def uniform(shape: tuple[int, ...], low: Limit, high: Limit, generator: torch.Generator) -> Tensor:
    """Return numbers that lie evenly between two limits."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def log_uniform(shape: tuple[int, ...], low: Limit, high: Limit, generator: torch.Generator) -> Tensor:
    """Return positive numbers whose logarithms lie evenly between those of two limits."""
    least, most = (
        torch.as_tensor(end, dtype=torch.float32, device=generator.device).log() for end in (low, high)
    )
    return uniform(shape, least, most, generator).exp()


def directions(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return unit vectors (*shape, 3), uniform on the sphere."""
    vectors = torch.randn((*shape, 3), generator=generator, device=generator.device)
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def in_ball(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return points (*shape, 3), evenly in the ball of radius 1."""
    return directions(shape, generator) * uniform((*shape, 1), 0.0, 1.0, generator) ** (1 / 3)


def random_turns(count: int, generator: torch.Generator) -> Tensor:
    """Return rotations (count, 3, 3), uniform over all orientations, from normal quaternions of length 1."""
    q = torch.randn((count, 4), generator=generator, device=generator.device)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)
