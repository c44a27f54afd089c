"""How well a network tells species that it has never seen: the score that is watched while it trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoclass.backbones.spec import Backbone, BackboneSpec
from cryoclass.backbones.weights import load_weights
from cryoclass.card import BackboneCard
from cryoclass.preparation import Preparer
from cryoclass.pretraining.batches import draw_batch
from cryoclass.settings import Invention, Yardsticks

SNR = 0.1
SEED = 2**32 - 2  # training makes its seeds of two numbers, so these species never come up there
CHUNK = 100  # boxes


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Boxes (N, D, H, W) of species that are not trained on, and the number of the species in each, (N,)."""

    boxes: Tensor
    species: Tensor

    def to(self, device: torch.device) -> "HeldOut":
        """Return the same boxes on another device."""
        return HeldOut(boxes=self.boxes.to(device), species=self.species.to(device))


def held_out(invention: Invention, yardsticks: Yardsticks) -> HeldOut:
    """Draw, on the CPU and so always the same, boxes of species that are never trained on, at a variance SNR of ``SNR``."""
    count, views = yardsticks.held_out_species, yardsticks.held_out_views
    generator = torch.Generator().manual_seed(SEED)
    drawn = draw_batch(count, views, (SNR, SNR), invention, generator)
    species = torch.arange(count).repeat_interleave(views)
    return HeldOut(boxes=drawn.boxes.flatten(0, 1), species=species)


@torch.no_grad()
def retrieval(backbone: Backbone, preparer: Preparer, shown: HeldOut) -> float:
    """Return the share of boxes whose nearest other box shows the same species; by chance it would be about 0.013.

    Near is a large cosine of the vectors, from which the mean over all boxes has been subtracted.
    """
    training = backbone.training
    backbone.eval()
    vectors = torch.cat([backbone(preparer(raw)).float() for raw in shown.boxes.split(CHUNK)])
    backbone.train(training)
    unit = F.normalize(vectors - vectors.mean(0), dim=1)
    likeness = (unit @ unit.mT).fill_diagonal_(-torch.inf)
    return float((shown.species[likeness.argmax(1)] == shown.species).float().mean())


def retrieval_of(entry: BackboneSpec, weights: Path, card: BackboneCard) -> float:
    """Return the score of a weight file, measured again on the species that its card speaks of."""
    ranges: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.invention.items()
    }
    preparer = Preparer(entry.resolve())
    return retrieval(load_weights(entry, weights), preparer, held_out(Invention(**ranges), Yardsticks()))
