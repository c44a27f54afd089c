"""What turns raw voxels into network input: the one definition for training, prediction and the ONNX graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.errors import UsageError
from cryoclass.settings import BeamAxis, Preparation

BOX_AXES = (1, 2, 3, 4)

# Axes of (N, z, y, x) in the order beam, height, width, by the axis that the beam runs along.
CYCLES = {"z": (1, 2, 3), "y": (2, 3, 1), "x": (3, 1, 2)}

# Standard deviation over largest magnitude, below which a box counts as constant: float32 rounding alone makes 1e-7.
CONSTANT = 1e-6


class Preparer(nn.Module):
    """Beam axis first, grey values per box, then one trilinear resize to the network's input size.

    Made of operations that ONNX has, for any number and size of boxes. Training may put its random resampling in the
    place of :meth:`resize`.

    Parameters
    ----------
    settings
        Input size, the way of treating grey values, what becomes of the slices, and which axis is the beam.
    """

    def __init__(self, settings: Preparation) -> None:
        super().__init__()
        self.settings = settings
        self.normalise = _standard if settings.intensity == "standard" else _unit

    def grey(self, raw: Tensor) -> Tensor:
        """Turn ``(N, D, H, W)`` raw voxels into ``(N, 1, D, H, W)`` with grey values treated per box, beam first."""
        x = self.normalise(beam_first(raw, self.settings.beam_axis)[:, None])
        low, high = self.settings.limits
        return x if (low, high) == (0.0, 1.0) else x * (high - low) + low

    def resize(self, x: Tensor) -> Tensor:
        """Resample ``(N, 1, D, H, W)`` to the network's input, trilinear, voxels taken as cells.

        The result is ``(N, 1, *input_size)``, or ``(N, 1, D, *input_size[1:])`` with the depth policy ``keep``.
        """
        x = _repeat_last(x, self.settings) if self.settings.depth == "repeat-last" else x
        size = self.settings.input_size
        depth = x.shape[2] if self.settings.depth == "keep" else size[0]
        return F.interpolate(x, size=(depth, *size[1:]), mode="trilinear", align_corners=False)

    def as_given(self, volumes: Tensor) -> Tensor:
        """Turn volumes ``(N, D, H, W)`` whose beam comes first so that their axes are those of the boxes again."""
        axes = CYCLES[self.settings.beam_axis]
        return volumes.permute(0, *(1 + axes.index(axis) for axis in (1, 2, 3)))

    def forward(self, raw: Tensor) -> Tensor:
        """Turn ``(N, D, H, W)`` raw float32 voxels of any box into the network's input."""
        return self.resize(self.grey(raw))


def beam_first(raw: Tensor, axis: BeamAxis) -> Tensor:
    """Turn boxes ``(N, z, y, x)`` so that a given axis comes first; cyclic, so that no box becomes its mirror image."""
    return raw.permute(0, *CYCLES[axis])


def to_depth(x: Tensor, settings: Preparation) -> Tensor:
    """Bring ``(N, 1, D, H, W)`` to the depth that the network sees, and leave the planes as they are."""
    if settings.depth == "keep":
        return x
    if settings.depth == "repeat-last":
        return _repeat_last(x, settings)
    size = (settings.input_size[0], *x.shape[3:])
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def _repeat_last(x: Tensor, settings: Preparation) -> Tensor:
    depth = settings.input_size[0]
    if not torch.compiler.is_exporting() and x.shape[2] > depth:
        raise UsageError(
            f"--depth repeat-last cannot make {depth} slices of {x.shape[2]}.",
            f"Use --depth resize, or an --input-size with a depth of at least {x.shape[2]}.",
        )
    place = torch.arange(depth, device=x.device).clamp(max=x.shape[2] - 1)
    return x[:, :, place]


def _standard(x: Tensor) -> Tensor:
    """Bring each box to mean 0 and standard deviation 1; a constant box to 0, whatever its scale."""
    x = x / x.abs().amax(BOX_AXES, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    x = x - x.mean(BOX_AXES, keepdim=True)
    return x / x.square().mean(BOX_AXES, keepdim=True).sqrt().clamp_min(CONSTANT)


def _unit(x: Tensor) -> Tensor:
    """Stretch each box from its smallest and largest voxel to 0 and 1; a constant box to 0."""
    low, high = x.amin(BOX_AXES, keepdim=True), x.amax(BOX_AXES, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
