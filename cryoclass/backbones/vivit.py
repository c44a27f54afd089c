"""ViViT-B of Arnab et al. (2021), trained on Kinetics-400: joint attention over all tubelets of 2x16x16 voxels.

The layers are those of Hugging Face transformers, an optional package. Its own way to another input size fails (it takes
the 16x14x14 places of the published table for the pixels of one image, version 5.23), so the table keeps its length here
and is stretched trilinearly to the grid of the input at each call. The embedding is the class token.
"""

import torch
from torch import Tensor

from cryoclass.backbones.spec import (
    Address,
    Backbone,
    BackboneSpec,
    Scale,
    State,
    Stem,
    Weights,
    multiple_of,
    need,
)
from cryoclass.backbones.torchvision_video import stretch

ADDRESS = "https://huggingface.co/google/vivit-b-16x2-kinetics400/resolve"

GRID = (16, 14, 14)  # places of the published table: 32 frames of 224x224 pixels

# Names in the published file, and in transformers from 5 on.
RENAMED = (
    ("vivit.", ""),
    ("encoder.layer.", "layers."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


class Vivit(Backbone):
    """ViViT without pooler and head.

    Parameters
    ----------
    channels
        1 for grey boxes, 3 for the published file.
    settings
        Changes to transformers' VivitConfig, whose defaults are the published network.
    """

    def __init__(self, channels: int, **settings: int) -> None:
        super().__init__()
        transformers = need("transformers", "vivit")
        config = transformers.VivitConfig(num_channels=channels, **settings)
        network = transformers.VivitModel(config, add_pooling_layer=False)
        self.embeddings, self.layers, self.layernorm = network.embeddings, network.layers, network.layernorm
        self.width = config.hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, channels, D, H, W)`` into ``(N, 768)``, the class token."""
        patches = self.embeddings.patch_embeddings.projection(x)
        start = self.embeddings.cls_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([start, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions((patches.shape[2], patches.shape[3], patches.shape[4]))
        for layer in self.layers:
            tokens = layer(tokens)
        embedding: Tensor = self.layernorm(tokens[:, 0])
        return embedding

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        """Return ``(1 + D*H*W, width)``: the row of the class token, then the table stretched to ``grid``."""
        start, places = self.embeddings.position_embeddings[0].split([1, GRID[0] * GRID[1] * GRID[2]])
        return torch.cat([start, stretch(places.unflatten(0, GRID), grid).flatten(0, 2)])


def rename(state: State) -> State:
    """Give the tensors of a file of transformers, of version 4 or 5, the names that they have here."""
    renamed = {}
    for name, value in state.items():
        for old, new in RENAMED:
            name = name.replace(old, new)  # noqa: PLW2901 - one change after the other
        renamed[name] = value
    return renamed


SPECS = (
    BackboneSpec(
        name="vivit-b-k400",
        summary="ViViT-B 16x2 (Arnab et al. 2021, Hugging Face)",
        build=Vivit,
        width=768,
        parameters=87_859_968,
        gflop=213.7,
        stem=Stem(
            weight="embeddings.patch_embeddings.projection.weight",
            offset="embeddings.patch_embeddings.projection.bias",
        ),
        convert=rename,
        discard=("pooler.", "classifier."),
        trained_on="Kinetics-400",
        weights=Weights(
            filename="vivit-b-16x2-kinetics400.bin",
            addresses=(Address(url=f"{ADDRESS}/main/pytorch_model.bin"),),
            size=356_000_000,
        ),
        scale=Scale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        licence="MIT",
        refuse=multiple_of(2, 16, 16),
        extra="vivit",
    ),
)
