"""3D ResNets of Hara, Kataoka and Satoh (CVPR 2018), as released in 2018 for Kinetics-400.

Shapes, names and "shortcut A" follow the public code (3D-ResNets-PyTorch, branch CVPR2018, MIT). Two things differ from
it: the pool at the end takes any size, and gradient flows through the parameter-free shortcuts (there they were
detached; the forward pass is the same).
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone, BackboneSpec, Weights

# Blocks in each of the four layers, by the number of convolutions in the whole network.
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut without parameters.

    Where the shape changes, the shortcut subsamples and appends zero channels ("shortcut A").
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, inputs, D, H, W)`` into ``(N, outputs, D/stride, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self._shortcut(x), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.extra)) if self.extra else x


class ResNet3d(Backbone):
    """The 3D ResNet of a given depth.

    Parameters
    ----------
    depth
        10, 18 or 34.
    channels
        1 for grey boxes; 3 gives the tensors of the published files.
    """

    width = 512

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 64, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1)
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _layer(64, 64, first, stride=1)
        self.layer2 = _layer(64, 128, second, stride=2)
        self.layer3 = _layer(128, 256, third, stride=2)
        self.layer4 = _layer(256, 512, fourth, stride=2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.apply(_initialise)

    def features(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into the last map, ``(N, 512, D/16, H/32, W/32)``, rounded up."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer2(self.layer1(self.maxpool(x)))
        deepest: Tensor = self.layer4(self.layer3(x))
        return deepest

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 512)``, the mean of the last map."""
        pooled: Tensor = self.avgpool(self.features(x))
        return pooled.flatten(1)


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _spec(depth: int, parameters: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"r3d{depth}",
        summary=f"3D ResNet-{depth}, random start",
        build=partial(ResNet3d, depth),
        width=ResNet3d.width,
        parameters=parameters,
        stem="conv1.weight",
        discard=("fc.",),
    )


R3D34_K400 = BackboneSpec(
    name="r3d34-k400",
    summary="3D ResNet-34, trained on Kinetics-400 video (2018 release)",
    build=partial(ResNet3d, 34),
    width=ResNet3d.width,
    parameters=63_295_808,
    stem="conv1.weight",
    discard=("fc.",),
    trained_on="Kinetics-400",
    weights=Weights(
        filename="resnet-34-kinetics.pth",
        # The authors' own copy lies in a Google Drive folder without a stable address for each file.
        addresses=("https://github.com/yjh0410/YOWOF/releases/download/yowof-weight/resnet-34-kinetics.pth",),
        size=254_300_000,
    ),
    licence="MIT (Kensho Hara's repository; the weights carry no licence of their own)",
)

SPECS = (_spec(10, 14_181_696), _spec(18, 32_986_176), _spec(34, 63_295_808), R3D34_K400)
