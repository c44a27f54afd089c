"""What a pre-training leaves on the disk beside the weights: their card."""

import shlex
from typing import Any

import torch

from cryoclass.backbones.spec import Backbone
from cryoclass.card import EMBEDDING, PARTICLES, BackboneCard, current_versions
from cryoclass.pretraining.loop import Pretrained
from cryoclass.pretraining.retrieval import SNR
from cryoclass.settings import Invention, Preparation, Pretraining


def make_card(
    backbone: Backbone,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    result: Pretrained,
    facts: dict[str, Any],
) -> BackboneCard:
    """Return how the weights of a backbone were made, and what they can do.

    Parameters
    ----------
    backbone
        As it is in the end.
    preparation
        What turned boxes into network input.
    settings, invention
        How it was taught, and on what.
    result
        What came out.
    facts
        What else should be known: name of the backbone, command, start, device, the user's own particles.
    """
    species = result.yardsticks.held_out_species
    shown = species * result.yardsticks.held_out_views
    return BackboneCard(
        preparation=preparation,
        **dict(backbone.facts),
        outputs={EMBEDDING: (PARTICLES, backbone.width)},
        versions=current_versions(),
        threads=torch.get_num_threads(),
        boxes=result.periods[-1].boxes,
        scores={
            "retrieval": round(result.retrieval, 4),
            "what": (
                f"share of {shown} boxes of {species} invented species never "
                f"trained on, at a variance SNR of {SNR}, whose nearest box shows the same species"
            ),
        },
        pretraining=settings.to_dict(),
        invention=invention.to_dict(),
        **{**facts, "command": shlex.join(facts["command"])},
    )
