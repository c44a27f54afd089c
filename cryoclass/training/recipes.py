"""Named recipes, and the learning rate that a recipe gives at every moment."""

import difflib
import math
from typing import Any, Literal

from cryoclass.errors import UsageError
from cryoclass.settings import Augmentation, Preparation, Recipe

WARM_UP = 0.3  # share of a one-cycle schedule in which the rate rises

PAPER = {
    # Jain, Li and Xu 2024 (btae368), section 3, and the authors' scripts where the article is silent: Adam, no weight
    # decay, batches of 32, the rate divided by 10 at a half and at three quarters.
    "pretrained": Recipe(name="paper", epochs=30, lr=1e-4),
    "random": Recipe(name="paper", epochs=100, lr=1e-3),
}

# For a laptop's CPU. Measured with r3d10 on six simulated species (32 voxels of 10 A, SNR 0.5, 100 or 30 of each to
# train on): 99 % of 960 others right; the rate, the batch and the crop hardly matter there.
QUICK = Recipe(
    name="quick",
    epochs=10,
    lr=1e-3,
    batch_size=16,
    schedule="one-cycle",
    augmentation=Augmentation(rotation=180.0, crop_area=(0.8, 1.0), shift=0.05),
    preparation=Preparation(input_size=(24, 32, 32), intensity="standard"),
)

# For a network that knows shapes already (res32-species), and a handful of labels: the head is fitted to what the network
# says, then everything moves a little.
FEW = Recipe(
    name="few",
    epochs=20,
    lr=3e-4,
    batch_size=16,
    schedule="one-cycle",
    head_first=True,
    freeze_norm=True,
    augmentation=Augmentation(probability=0.0, half_turns=True),
    preparation=Preparation(input_size=(32, 32, 32), intensity="standard"),
)

RECIPES = {
    "paper": PAPER,
    "quick": {"pretrained": QUICK, "random": QUICK},
    "few": {"pretrained": FEW, "random": FEW},
}


def recipe(name: str, start: Literal["pretrained", "random"]) -> Recipe:
    """Return the recipe ``name`` for a network that starts from pretrained weights or from random ones.

    Raises
    ------
    UsageError
        There is no such recipe; the nearest name is suggested.
    """
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
        raise UsageError(
            f"There is no recipe {name!r}; the recipes are {', '.join(RECIPES)}.", f"Use --recipe {nearest}."
        )
    return RECIPES[name][start]


def what_counts(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that count of a recipe: little where the head alone is fitted."""
    everything = recipe.to_dict()
    if not recipe.at_once:
        return everything
    return {name: everything[name] for name in ("name", "freeze", "batch_size", "preparation")}


def learning_rate(recipe: Recipe, epochs_done: float) -> float:
    """Return the learning rate after ``epochs_done`` epochs, of which there may be a fraction.

    In ``steps``, milestones that do not fall on whole epochs count from the epoch before, as in the paper (22 of 30).
    """
    if recipe.schedule == "steps":
        passed = sum(epochs_done >= max(1, int(share * recipe.epochs)) for share in recipe.milestones)
        return recipe.lr * 0.1**passed
    share = epochs_done / recipe.epochs
    if share < WARM_UP:
        return recipe.lr * (0.04 + 0.96 * share / WARM_UP)  # from a 25th, as torch's OneCycleLR
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
