"""R(2+1)D-34 of Ghadiyaram et al. (CVPR 2019), trained on 65 million Instagram videos, then on Kinetics-400.

The files are moabitcoin/ig65m-pytorch's conversion of the authors' Caffe2 weights. The network is torchvision's
R(2+1)D with 3, 4, 6 and 3 blocks, but for two things that follow Caffe2: the second convolution of the first block of
layers 2 to 4 is wider inside, and batch normalisation adds 1e-3 to the variance. (That repository also sets a momentum
of 0.9, which is Caffe2's way of saying what PyTorch calls 0.1; ours is 0.1.)
"""

from torch import nn

from cryoclass.backbones.spec import Address, BackboneSpec, Weights
from cryoclass.backbones.torchvision_video import (
    KINETICS_SCALE,
    RESNET_STEM,
    VideoResNet,
    torchvision_module,
)

RELEASE = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0"

BLOCKS = (3, 4, 6, 3)

# Channels of the second convolution of the first block, and those between its 1x3x3 and its 3x1x1 half, by layer. Caffe2
# reckons the latter from the convolution's own inputs, torchvision from those of the block.
INSIDE = {"layer2": (128, 288), "layer3": (256, 576), "layer4": (512, 1152)}


def build(channels: int) -> VideoResNet:
    """Return the network, randomly initialised."""
    parts = torchvision_module("torchvision.models.video.resnet")
    network = parts.VideoResNet(parts.BasicBlock, [parts.Conv2Plus1D] * 4, list(BLOCKS), parts.R2Plus1dStem)
    for name, (outputs, inside) in INSIDE.items():
        network.get_submodule(name)[0].conv2[0] = parts.Conv2Plus1D(outputs, outputs, inside)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.eps = 1e-3
    return VideoResNet(network, channels)


def _spec(frames: int, digits: str) -> BackboneSpec:
    filename = f"r2plus1d_34_clip{frames}_ft_kinetics_from_ig65m-{digits}.pth"
    return BackboneSpec(
        name=f"r2plus1d34-ig65m{frames}-k400",
        summary=f"R(2+1)D-34, clips of {frames} frames (moabitcoin's conversion of VMZ)",
        build=build,
        width=VideoResNet.width,
        parameters=63_487_565,
        gflop=396.8,
        stem=RESNET_STEM,
        discard=("fc.",),
        trained_on="IG-65M, Kinetics-400",
        weights=Weights(
            filename=filename,
            addresses=(Address(url=f"{RELEASE}/{filename}", hash=f"sha256:{digits}"),),
            size=255_061_555,
        ),
        scale=KINETICS_SCALE,
        licence="MIT",
        licence_note="The conversion is MIT; the weights come from facebookresearch/VMZ, Apache-2.0.",
    )


SPECS = (_spec(8, "0aa0550b"), _spec(32, "ade133f1"))
