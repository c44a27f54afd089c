"""Small siblings of the registered networks: the same classes with fewer and narrower layers."""

from functools import partial

from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video import mvit, resnet, s3d, swin_transformer

from cryoclass.backbones import resnet3d
from cryoclass.backbones.autoencoding import Autoencoding
from cryoclass.backbones.inflated import InflatedSwin
from cryoclass.backbones.mtl_cect import MtlCect
from cryoclass.backbones.rb3d import Rb3d
from cryoclass.backbones.registry import BACKBONES
from cryoclass.backbones.res32 import Res32
from cryoclass.backbones.torchvision_video import Mvit, S3d, VideoResNet, VideoSwin
from cryoclass.backbones.vivit import Vivit
from cryoclass.backbones.vjepa2 import Vjepa2

FEW_LAYERS = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 2}
WINDOW = [8, 7, 7]
HEADS = [1, 2]


def small_video_resnet(kind: str) -> nn.Module:
    makers = {
        "mc3": [resnet.Conv3DSimple] + [resnet.Conv3DNoTemporal] * 3,
        "r2plus1d": [resnet.Conv2Plus1D] * 4,
    }
    stem = resnet.R2Plus1dStem if kind == "r2plus1d" else resnet.BasicStem
    return resnet.VideoResNet(resnet.BasicBlock, makers[kind], [1, 1, 1, 1], stem)


def small_mvit(version: int, spatial: tuple[int, int] = (224, 224), temporal: int = 16) -> nn.Module:
    cube, even, halved = [3, 3, 3], [1, 1, 1], [1, 2, 2]
    settings = [
        mvit.MSBlockConfig(1, 24, 24 if version == 2 else 48, cube, cube, even, [1, 4, 4]),
        mvit.MSBlockConfig(2, 24 if version == 2 else 48, 48, cube, cube, halved, [1, 2, 2]),
    ]
    new = version == 2
    return mvit.MViT(
        spatial,
        temporal,
        settings,
        residual_pool=new,
        residual_with_cls_embed=False,
        rel_pos_embed=new,
        proj_after_attn=new,
    )


def small_swin3d(blocks: tuple[int, int] = (2, 2)) -> nn.Module:
    return swin_transformer.SwinTransformer3d([2, 4, 4], 24, list(blocks), HEADS, WINDOW)


def small_s3d() -> nn.Module:
    network = s3d()
    network.features = network.features[:6]
    return network


def small_swin2d() -> nn.Module:
    return SwinTransformer([4, 4], 24, [2, 2], HEADS, WINDOW[1:])


def small_hara(depth: int, shortcut: str, channels: int) -> nn.Module:
    usual = resnet3d.BLOCKS[depth]
    resnet3d.BLOCKS[depth] = (1, 1, 1, 1)
    try:
        return resnet3d.ResNet3d(depth, channels, shortcut)
    finally:
        resnet3d.BLOCKS[depth] = usual


def _wrapped(wrap, network, width, channels):
    backbone = wrap(network(), channels)
    backbone.width = width
    return backbone


SIBLINGS = {
    "r3d-a": partial(small_hara, 10, "A"),
    "r3d-b": partial(small_hara, 50, "B"),
    "mc3": partial(_wrapped, VideoResNet, partial(small_video_resnet, "mc3"), 512),
    "r2plus1d": partial(_wrapped, VideoResNet, partial(small_video_resnet, "r2plus1d"), 512),
    "s3d": partial(_wrapped, S3d, small_s3d, 256),
    "mvit-1": partial(_wrapped, Mvit, partial(small_mvit, 1), 48),
    "mvit-2": partial(_wrapped, Mvit, partial(small_mvit, 2), 48),
    "swin3d": partial(_wrapped, VideoSwin, partial(small_swin3d, (1, 2)), 48),
    "swin": partial(_wrapped, InflatedSwin, partial(small_swin3d, (1, 1)), 48),
    "vivit": lambda channels: Vivit(channels, **FEW_LAYERS, intermediate_size=64),
    "vjepa2": lambda channels: Vjepa2(channels, **FEW_LAYERS),
    "rb3d": Rb3d,
    "autoencoding3d": Autoencoding,
    "mtl-cect": MtlCect,
    "res32": Res32,
}

# First word of a name, or a whole name, to the sibling.
KINDS = {
    "tv": "mc3",
    "mc3": "mc3",
    "r2plus1d": "r2plus1d",
    "r2plus1d34": "r2plus1d",
    "s3d": "s3d",
    "mvit-v1-b-k400": "mvit-1",
    "mvit-v2-s-k400": "mvit-2",
    "swin3d": "swin3d",
    "swin": "swin",
    "vivit": "vivit",
    "vjepa2": "vjepa2",
    "rb3d": "rb3d",
    "autoencoding3d": "autoencoding3d",
    "mtl-cect": "mtl-cect",
    "res32": "res32",
}


def sibling_of(name: str) -> str:
    """Return the key of ``SIBLINGS`` for a registered backbone; fails for a family without one."""
    first = name.partition("-")[0]
    if BACKBONES[name] in resnet3d.SPECS:
        return f"r3d-{BACKBONES[name].build.keywords.get('shortcut', 'A').lower()}"
    return KINDS.get(name) or KINDS[first]
