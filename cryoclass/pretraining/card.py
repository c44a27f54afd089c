"""What a pre-training leaves on the disk: the backbone, its card, and the history."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cryoclass.backbones.spec import Backbone
from cryoclass.classifier import current_versions
from cryoclass.files import replacing
from cryoclass.pretraining import retrieval
from cryoclass.pretraining.loop import Pretrained
from cryoclass.settings import Invention, Preparation, Pretraining

WEIGHTS, CARD, HISTORY = "backbone.safetensors", "backbone.json", "history.csv"


def write_backbone(folder: Path, backbone: Backbone, card: dict[str, Any]) -> None:
    """Write the weights and, last, the card, which says that all is there.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    weights = safetensors.torch.save(state)
    card = {**card, "weights_sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    with replacing(folder / CARD) as new_card, replacing(folder / WEIGHTS) as new_weights:
        new_weights.write_bytes(weights)
        new_card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def make_card(
    name: str,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    result: Pretrained,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return how the weights of a backbone were made, and what they can do.

    Parameters
    ----------
    name
        A key of the registry.
    preparation
        What turned boxes into network input.
    settings, invention
        How it was taught, and on what.
    result
        What came out.
    facts
        What else should be known: command, start, device, the user's own particles.
    """
    return {
        "backbone": name,
        "command": shlex.join(facts["command"]),
        "boxes": result.periods[-1].boxes,
        "seconds": round(sum(period.seconds for period in result.periods)),
        "threads": torch.get_num_threads(),
        "scores": {
            "retrieval": round(result.retrieval, 4),
            "what": (
                f"share of {retrieval.SPECIES * retrieval.VIEWS} boxes of {retrieval.SPECIES} invented species never "
                f"trained on, at a variance SNR of {retrieval.SNR}, whose nearest box shows the same species"
            ),
        },
        "preparation": preparation.to_dict(),
        "pretraining": settings.to_dict(),
        "invention": invention.to_dict(),
        **{key: value for key, value in facts.items() if key != "command"},
        "versions": current_versions(),
    }
