"""3D ResNets of Hara, Kataoka and Satoh: the release of 2018 for Kinetics-400, and that of 2020 for Kinetics-700.

Shapes, names and shortcuts follow the public code (3D-ResNets-PyTorch, MIT; branch CVPR2018 for the first, master for the
second). Two things differ from it: the pool at the end takes any size, and gradient flows through the shortcuts without
parameters (there they were detached; the forward pass is the same, and ``detach`` brings it back).
"""

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cryoclass.backbones.spec import Address, Backbone, BackboneSpec, Scale, Stem, Weights
from cryoclass.errors import UsageError

Shortcut = Literal["A", "B"]

# Blocks in each of the four layers, by the number of convolutions in the whole network.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
BOTTLENECKS = (50, 101)  # depths whose blocks squeeze the channels to a quarter

PLANES = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)


class Subsample(nn.Module):
    """The shortcut without parameters ("A"): every ``stride``-th voxel, and zero channels appended.

    Parameters
    ----------
    stride
        Along all three axes.
    extra
        How many channels are appended.
    detach
        Let no gradient through, as the public code of 2018 did.
    """

    def __init__(self, stride: int, extra: int, detach: bool) -> None:
        super().__init__()
        self.stride, self.extra, self.detach = stride, extra, detach

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, C, D, H, W)`` into ``(N, C + extra, D/stride, H/stride, W/stride)``."""
        if self.detach:
            x = x.detach()
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut; ``downsample`` is the shortcut where the shape changes."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, inputs, D, H, W)`` into ``(N, planes, D/stride, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3x3 convolution on few channels between two 1x1x1 ones, beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, planes * self.expansion, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, inputs, D, H, W)`` into ``(N, 4 * planes, D/stride, H/stride, W/stride)``."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet3d(Backbone):
    """The 3D ResNet of a given depth.

    Parameters
    ----------
    depth
        10, 18, 34, 50 or 101.
    channels
        1 for grey boxes; 3 gives the tensors of the published files.
    shortcut
        Where the shape changes: ``A`` has no parameters, ``B`` is a 1x1x1 convolution with batch normalisation.
    detach
        With shortcut ``A``: let no gradient through it, as the code that the weights of 2018 were made with.
    """

    explained = "layer3"

    def __init__(self, depth: int, channels: int, shortcut: Shortcut = "A", *, detach: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 64, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1)
        block = Bottleneck if depth in BOTTLENECKS else BasicBlock
        layers, inputs = [], 64
        for planes, blocks, stride in zip(PLANES, BLOCKS[depth], STRIDES, strict=True):
            outputs = planes * block.expansion
            first = block(inputs, planes, stride, _shortcut(inputs, outputs, stride, shortcut, detach))
            rest = (block(outputs, planes, 1, None) for _ in range(blocks - 1))
            layers.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.width = inputs
        self.map_channels = (64, *(planes * block.expansion for planes in PLANES))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.apply(_initialise)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Turn ``(N, channels, D, H, W)`` into what the stem and each layer make of it, sides rounded up.

        Depth is 1, 1/2, 1/4, 1/8 and 1/16 of ``D``, height and width are half of that.
        """
        stem = F.relu(self.bn1(self.conv1(x)), inplace=True)
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        return stem, first, second, third, self.layer4(third)

    def pool(self, deepest: Tensor) -> Tensor:
        """Turn the last map ``(N, width, d, h, w)`` into its mean ``(N, width)``."""
        pooled: Tensor = self.avgpool(deepest)
        return pooled.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, width)``, the mean of the last map."""
        return self.pool(self.feature_maps(x)[-1])


def detach_shortcuts(backbone: nn.Module) -> None:
    """Let no gradient through the shortcuts without parameters, as the code that the weights of 2018 were made with.

    Raises
    ------
    UsageError
        The network has no such shortcuts.
    """
    shortcuts = [part for part in backbone.modules() if isinstance(part, Subsample)]
    if not shortcuts:
        raise UsageError(
            "--legacy-shortcut is for networks with shortcut A only.", "Use it with r3d18-k400 or r3d34-k400."
        )
    for shortcut in shortcuts:
        shortcut.detach = True


def _shortcut(inputs: int, outputs: int, stride: int, kind: Shortcut, detach: bool) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    if kind == "A":
        return Subsample(stride, outputs - inputs, detach)
    convolution = nn.Conv3d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# ---------------------------------------------------------------------------------------------- registry

STEM = Stem(weight="conv1.weight", offset="bn1.running_mean")

# 2018: bytes, minus the mean of ActivityNet (opts.py and mean.py of the branch CVPR2018). 2020: 0 to 1, with the mean and
# deviation of Kinetics (mean.py of the branch master).
SCALE_2018 = Scale(highest=255.0, mean=(114.7748, 107.7354, 99.4750))
SCALE_2020 = Scale(mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737))

# Trainable values with one channel, and GFLOP at 32x128x128.
COST = {
    (10, "A"): (14_181_696, 17.8),
    (18, "A"): (32_986_176, 31.3),
    (18, "B"): (33_160_000, 31.4),
    (34, "A"): (63_295_808, 54.0),
    (34, "B"): (63_469_632, 54.1),
    (50, "B"): (46_155_072, 40.5),
    (101, "B"): (85_201_216, 60.5),
}

MIRROR = "https://github.com/yjh0410/YOWOF/releases/download/yowof-weight"
NOTE = "MIT is the licence of Kensho Hara's repository; the weights carry none of their own."

# OpenCV's conversion of the 34-layer file; both hashes are published (opencv_extra's download_models.py; a git-LFS pointer).
ONNX_COPIES = (
    Address(
        url="https://www.dropbox.com/s/065l4vr8bptzohb/resnet-34_kinetics.onnx?dl=1",
        hash="sha1:88897629e4abb0fddef939f0c2d668a4edeb0788",
    ),
    Address(
        url="https://github.com/bhrt-sharma/HumanActivity-and-Face-Detection/raw/HEAD/resnet-34_kinetics.onnx",
        hash="sha256:b3f49d3423267207050c9b6344baab19f68e716465041402643a4a75daaa69da",
    ),
)


def _random(depth: int) -> BackboneSpec:
    parameters, gflop = COST[depth, "A"]
    return BackboneSpec(
        name=f"r3d{depth}",
        summary=f"3D ResNet-{depth}, random start",
        build=partial(ResNet3d, depth),
        width=512,
        parameters=parameters,
        gflop=gflop,
        stem=STEM,
        discard=("fc.",),
    )


def _kinetics400(depth: int, shortcut: Shortcut, size: int, copies: tuple[Address, ...] = ()) -> BackboneSpec:
    filename = f"resnet-{depth}-kinetics.pth"
    return _pretrained(
        f"r3d{depth}-k400",
        depth,
        shortcut,
        summary=f"3D ResNet-{depth} of Hara et al., release of 2018",
        trained_on="Kinetics-400",
        scale=SCALE_2018,
        weights=Weights(
            filename=filename,
            addresses=(Address(url=f"{MIRROR}/{filename}"), *copies),
            size=size,
            # The authors' own copies lie in a folder without a stable address for each file.
            by_hand="https://drive.google.com/drive/folders/1zvl89AgFAApbH0At-gMuZSeQB_LpNP-M",
        ),
    )


def _kinetics700(depth: int, size: int) -> BackboneSpec:
    return _pretrained(
        f"r3d{depth}-k700",
        depth,
        "B",
        summary=f"3D ResNet-{depth} of Kataoka et al., release of 2020",
        trained_on="Kinetics-700",
        scale=SCALE_2020,
        weights=Weights(
            filename=f"r3d{depth}_K_200ep.pth",
            addresses=(),
            size=size,
            by_hand="https://drive.google.com/open?id=1xbYbZ7rpyjftI_KCk6YuL-XrfQDz7Yd4",
        ),
    )


def _pretrained(name: str, depth: int, shortcut: Shortcut, **facts: Any) -> BackboneSpec:
    parameters, gflop = COST[depth, shortcut]
    return BackboneSpec(
        name=name,
        build=partial(ResNet3d, depth, shortcut=shortcut),
        width=2048 if depth in BOTTLENECKS else 512,
        parameters=parameters,
        gflop=gflop,
        stem=STEM,
        discard=("fc.",),
        licence="MIT",
        licence_note=NOTE,
        **facts,
    )


SPECS = (
    _random(10),
    _random(18),
    _random(34),
    _kinetics400(18, "A", 133_000_000),
    _kinetics400(34, "A", 254_300_000, ONNX_COPIES),
    _kinetics400(50, "B", 188_300_000),
    _kinetics400(101, "B", 344_700_000),
    _kinetics700(18, 134_300_000),
    _kinetics700(34, 255_600_000),
    _kinetics700(50, 190_700_000),
)
