"""Named recipes."""

import difflib
from typing import Literal

from cryoclass.errors import UsageError
from cryoclass.settings import Augmentation, Preparation, Recipe

PAPER = {
    # Gupta et al. 2022 as read in METHODS section 9: Adam, no weight decay, batches of 32, rate / 10 at 1/2 and 3/4.
    "video": Recipe(name="paper", epochs=30, lr=1e-4),
    "random": Recipe(name="paper", epochs=100, lr=1e-3),
}

QUICK = Recipe(
    name="quick",
    epochs=20,
    lr=2e-3,
    batch_size=16,
    schedule="one-cycle",
    augmentation=Augmentation(rotation=180.0),
    preparation=Preparation(input_size=(24, 32, 32), intensity="standard"),
)

RECIPES = {"paper": PAPER, "quick": {"video": QUICK, "random": QUICK}}


def recipe(name: str, init: Literal["video", "random"]) -> Recipe:
    """Return the recipe ``name`` for a network that starts from video weights or from random ones.

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
    return RECIPES[name][init]
