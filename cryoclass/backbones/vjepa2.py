"""V-JEPA 2 ViT-L (Assran et al. 2025): learnt from a million hours of video by predicting what is masked, no labels.

The layers are those of Hugging Face transformers, an optional package. Positions are rotary, so there is no table to
resize; transformers numbers the tokens on the 16x16 grid of the published 256x256 pixels, and would misplace those of
another grid, so they are given to it as places on that grid. The embedding is the mean of the tokens.
"""

import torch
from torch import Tensor

from cryoclass.backbones.spec import Address, Backbone, BackboneSpec, Stem, Weights, need, words
from cryoclass.backbones.torchvision_video import IMAGENET_SCALE
from cryoclass.settings import Size3

ADDRESS = "https://huggingface.co/facebook/vjepa2-vitl-fpc64-256/resolve/main/model.safetensors"

PATCH = (2, 16, 16)
SIDE = 16  # places along each side of the published grid


class Vjepa2(Backbone):
    """The encoder of V-JEPA 2, without the predictor that it was trained with.

    Parameters
    ----------
    channels
        1 for grey boxes, 3 for the published file.
    settings
        Changes to transformers' VJEPA2Config, whose defaults are the published network.
    """

    def __init__(self, channels: int, **settings: int) -> None:
        super().__init__()
        transformers = need("transformers", "vivit")
        # The predictor is not used; with one layer it costs little to make.
        config = transformers.VJEPA2Config(in_chans=channels, pred_num_hidden_layers=1, **settings)
        self.encoder = transformers.VJEPA2Model(config).encoder
        self.width = config.hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 1024)``, the mean of the tokens."""
        patches = self.encoder.embeddings.patch_embeddings.proj(x)
        places = _places((patches.shape[2], patches.shape[3], patches.shape[4]), x.device)
        tokens = patches.flatten(2).transpose(1, 2)
        for layer in self.encoder.layer:
            tokens = layer(tokens, places)[0]
        normed: Tensor = self.encoder.layernorm(tokens)
        return normed.mean(dim=1)


def _places(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return the number of each token of ``grid`` on the published grid, ``(1, D*H*W)``."""
    depth, height, width = (torch.arange(side, device=device) for side in grid)
    places = SIDE**2 * depth[:, None, None] + SIDE * height[:, None] + width
    return places.flatten()[None]


def refuse(size: Size3) -> str:
    """Return the rule that an input size breaks."""
    whole = all(side % patch == 0 for side, patch in zip(size, PATCH, strict=True))
    fits = max(size[1:]) <= SIDE * PATCH[1]
    return "" if whole and fits else f"a multiple of {words(PATCH)}, and at most 256 high and wide"


SPECS = (
    BackboneSpec(
        name="vjepa2-l",
        summary="V-JEPA 2 ViT-L (Assran et al. 2025, Hugging Face)",
        build=Vjepa2,
        width=1024,
        parameters=302_836_736,
        gflop=722.6,
        stem=Stem(
            weight="encoder.embeddings.patch_embeddings.proj.weight",
            offset="encoder.embeddings.patch_embeddings.proj.bias",
        ),
        discard=("predictor.",),
        trained_on="VideoMix22M, no labels",
        weights=Weights(
            filename="vjepa2-vitl-fpc64-256.safetensors",
            addresses=(Address(url=ADDRESS),),
            size=1_304_000_000,
        ),
        scale=IMAGENET_SCALE,
        licence="MIT",
        refuse=refuse,
        extra="vivit",
    ),
)
