"""What turns raw voxels into network input: the one definition for training, prediction and the ONNX graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.settings import Preparation

BOX_AXES = (1, 2, 3, 4)

# Standard deviation over largest magnitude, below which a box counts as constant: float32 rounding alone makes 1e-7.
CONSTANT = 1e-6


class Preparer(nn.Module):
    """Grey values per box, then one trilinear resize to the network's input size.

    Made of operations that ONNX has, for any number and size of boxes. Training may put its random resampling in the
    place of :meth:`resize`.

    Parameters
    ----------
    settings
        Input size and the way of treating grey values.
    """

    def __init__(self, settings: Preparation) -> None:
        super().__init__()
        self.settings = settings
        self.size = settings.input_size
        self.normalise = {"standard": _standard, "unit": _unit}[settings.intensity]

    def grey(self, raw: Tensor) -> Tensor:
        """Turn ``(N, D, H, W)`` raw voxels into ``(N, 1, D, H, W)`` with grey values treated per box."""
        return self.normalise(raw[:, None])

    def resize(self, x: Tensor) -> Tensor:
        """Resample ``(N, 1, D, H, W)`` to ``(N, 1, *input_size)``, trilinear, voxels taken as cells."""
        return F.interpolate(x, size=self.size, mode="trilinear", align_corners=False)

    def forward(self, raw: Tensor) -> Tensor:
        """Turn ``(N, D, H, W)`` raw float32 voxels of any box into ``(N, 1, *input_size)``."""
        return self.resize(self.grey(raw))


def _standard(x: Tensor) -> Tensor:
    """Bring each box to mean 0 and standard deviation 1; a constant box to 0, whatever its scale."""
    x = x / x.abs().amax(BOX_AXES, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    x = x - x.mean(BOX_AXES, keepdim=True)
    return x / x.square().mean(BOX_AXES, keepdim=True).sqrt().clamp_min(CONSTANT)


def _unit(x: Tensor) -> Tensor:
    """Stretch each box from its smallest and largest voxel to 0 and 1; a constant box to 0."""
    low, high = x.amin(BOX_AXES, keepdim=True), x.amax(BOX_AXES, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
