"""What a pre-training leaves on the disk beside the weights: their card."""

import shlex
from typing import Any

import torch

from cryoclass.backbones.spec import Backbone
from cryoclass.card import EMBEDDING, PARTICLES, BackboneCard, ModelCard, current_versions
from cryoclass.classifier import Classifier
from cryoclass.pretraining.retrieval import SNR
from cryoclass.pretraining.shape import Pretrained, learnt_from
from cryoclass.pretraining.voxels import TaughtVoxels
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


def make_voxel_card(
    classifier: Classifier,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    result: TaughtVoxels,
    facts: dict[str, Any],
) -> ModelCard:
    """Return the card of a model that tells masks and densities of particles of any kind, in boxes of any size.

    Parameters
    ----------
    classifier
        As it is in the end.
    preparation, settings, invention, result, facts
        As for :func:`make_card`.
    """
    least, most = invention.pixel_range
    count = result.yardsticks.held_out_species * result.yardsticks.held_out_views
    what = (
        f"{count} boxes of {result.yardsticks.held_out_species} invented species never trained on, by the variance SNR; "
        "means with their 95 % intervals; correlation is that of the recovered density with the clean one"
    )
    return ModelCard(
        backbone=classifier.backbone_name,
        classes=(),
        angpix=round((least * most) ** 0.5, 3),
        box=(invention.box,) * 3,
        any_box=True,
        contrast="bright",
        preparation=preparation,
        outputs=classifier.outputs,
        tasks=tuple(classifier.heads),
        versions=current_versions(),
        natural_units=classifier.backbone.facts.natural_units,
        learnt_from=learnt_from(preparation, invention),
        training={
            **facts,
            "command": shlex.join(facts["command"]),
            "threads": torch.get_num_threads(),
            "boxes": result.periods[-1].boxes,
            "pretraining": settings.to_dict(),
            "invention": invention.to_dict(),
        },
        metrics={
            "what": what,
            "by_snr": {
                snr: {name: mean.to_dict() for name, mean in means.items()}
                for snr, means in result.scores.items()
            },
        },
    )
