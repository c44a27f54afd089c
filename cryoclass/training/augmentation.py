"""Random changes of training boxes: the parameters are drawn here, and applied together with the resize.

Both steps of the paper act in the plane across the beam and are the same for all slices, so they compose with the
resize to the network's input into one resampling: linear along z, then bilinear in the plane.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoclass.preparation import to_depth
from cryoclass.settings import Augmentation, Preparation

TRIES = 10  # draws of a crop until one fits into the box, as torchvision's RandomResizedCrop

# Which of x, y and z a half turn reverses: none, or the two axes that it is not about.
HALF_TURNS = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class AugmentationDraw:
    """What happens to each particle.

    Parameters
    ----------
    plane
        Matrix (N, 2, 3) from a place (x, y, 1) in the output to the place (x, y) in the box that is shown there; both
        run from -1 to 1 across a square plane.
    mirror_z
        Whether the slices are taken in reverse order, (N,).
    """

    plane: Tensor
    mirror_z: Tensor

    def __len__(self) -> int:
        return len(self.mirror_z)


def draw(n: int, settings: Augmentation, generator: torch.Generator) -> AugmentationDraw:
    """Draw what happens to each of ``n`` particles, on the CPU."""
    crop, crop_centre = _crop(n, settings, generator)
    turn, shift = _affine(n, settings, generator)
    matrix = crop @ turn  # output -> (affine) -> cropped box -> (crop) -> whole box
    centre = crop_centre - (matrix @ shift[..., None])[..., 0]
    mirror = _chance(n, 0.5 if settings.flip else 0.0, generator, 3)
    if settings.half_turns:
        mirror = mirror ^ HALF_TURNS[torch.randint(len(HALF_TURNS), (n,), generator=generator)]
    matrix = matrix * torch.where(mirror[:, None, :2], -1.0, 1.0)  # mirror the output's x and y
    return AugmentationDraw(plane=torch.cat([matrix, centre[..., None]], dim=2), mirror_z=mirror[:, 2])


def resample(grey: Tensor, drawn: AugmentationDraw, preparation: Preparation) -> Tensor:
    """Bring boxes to the network's input size, changed as drawn, in one resampling.

    Parameters
    ----------
    grey
        Boxes (N, 1, D, H, W) float32 on any device.
    drawn
        What happens to each box.
    preparation
        The network's input size, and what becomes of the slices.

    Returns
    -------
    Tensor
        (N, 1, d, h, w). Places outside the box take the nearest voxel's value. A draw that changes nothing gives what
        :meth:`cryoclass.preparation.Preparer.resize` gives.
    """
    _, height, width = preparation.input_size
    if drawn.mirror_z.any():
        grey = torch.where(drawn.mirror_z.to(grey.device)[:, None, None, None, None], grey.flip(2), grey)
    planes = to_depth(grey, preparation)[:, 0]  # (N, d, H, W): slices are the channels of an image
    theta = _in_box_units(drawn.plane.to(grey.device), *grey.shape[3:])
    grid = F.affine_grid(theta, [len(drawn), 1, height, width], align_corners=False)
    plane = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return plane[:, None]


def _crop(n: int, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the matrix (n, 2, 2) and the centre (n, 2) of a resized crop, (x, y)."""
    area = _uniform((TRIES, n), settings.crop_area, generator)
    lowest, highest = settings.crop_ratio
    ratio = _uniform((TRIES, n), (math.log(lowest), math.log(highest)), generator).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1)  # width, height
    first = (
        (sides <= 1).all(-1).to(torch.uint8).argmax(0)
    )  # the first that fits; try 0, cut to size, if none does
    sides = sides[first, torch.arange(n)].clamp(max=1)
    done = _chance(n, settings.probability, generator, 1)
    sides = torch.where(done, sides, 1.0)
    centre = _uniform((n, 2), (-1.0, 1.0), generator) * (1 - sides)
    return torch.diag_embed(sides), centre


def _affine(n: int, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the inverse matrix (n, 2, 2) and the shift (n, 2) of turn, zoom and shift, (x, y)."""
    angle = _uniform((n,), (-settings.rotation, settings.rotation), generator).deg2rad()
    zoom = _uniform((n,), (1 - settings.zoom, 1 + settings.zoom), generator)
    shift = 2 * _uniform((n, 2), (-settings.shift, settings.shift), generator)  # the box is 2 wide
    done = _chance(n, settings.probability, generator, 1)
    angle, zoom = torch.where(done[:, 0], angle, 0.0), torch.where(done[:, 0], zoom, 1.0)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrix = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
    return matrix, torch.where(done, shift, 0.0)


def _in_box_units(plane: Tensor, height: int, width: int) -> Tensor:
    """Turn matrices for a square plane into ones for a plane of ``height`` x ``width``, so that angles stay true."""
    side = torch.tensor([width, height], dtype=plane.dtype, device=plane.device)
    matrix = plane[:, :, :2] * side[None, None, :] / side[None, :, None]
    return torch.cat([matrix, plane[:, :, 2:]], dim=2)


def _uniform(shape: tuple[int, ...], limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)


def _chance(n: int, probability: float, generator: torch.Generator, columns: int) -> Tensor:
    """Return yes or no, (n, columns)."""
    return torch.rand((n, columns), generator=generator) < probability
