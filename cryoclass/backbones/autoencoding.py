"""The classifier half of the 3D autoencoding classifier of Liu et al. (2019), random start.

Facts from aitom's ``cnn/autoencoding``. There the maps of the second convolution are flattened, so that the network
belongs to one box size; here they are brought to the 7x7x7 of a 28x28x28 box first, which changes nothing for that
box. The decoder, the L1 penalties on the activities and the reconstruction loss are not here.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone, BackboneSpec, at_least

MAPS, SIDE, WIDTH = 32, 7, 128


class Autoencoding(Backbone):
    """Two convolutions with pools, then two dense layers on the flattened maps."""

    width = WIDTH

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, MAPS, 3, padding=1)
        self.conv2 = nn.Conv3d(MAPS, MAPS, 3, padding=1)
        self.maxpool = nn.MaxPool3d(2)
        self.bn = nn.BatchNorm1d(MAPS * SIDE**3)
        self.dense1 = nn.Linear(MAPS * SIDE**3, WIDTH)
        self.dense2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 128)``."""
        x = self.maxpool(F.relu(self.conv1(x), inplace=True))
        x = self.maxpool(F.relu(self.conv2(x), inplace=True))
        x = F.interpolate(x, size=(SIDE, SIDE, SIDE), mode="trilinear", align_corners=False)
        x = F.relu(self.dense1(self.bn(x.flatten(1))))
        return F.relu(self.dense2(x))


SPECS = (
    BackboneSpec(
        name="autoencoding3d",
        summary="3D autoencoding classifier (Liu et al. 2019), encoder and dense layers, random start",
        build=Autoencoding,
        width=WIDTH,
        parameters=1_472_096,
        gflop=0.19,
        stem=None,
        input_size=(28, 28, 28),
        refuse=at_least(4, 4, 4),
    ),
)
