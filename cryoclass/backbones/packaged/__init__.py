"""The weights that come with cryoclass: ``NAME.safetensors`` and, beside it, ``NAME.json``, the card that says what it is.

``cryoclass pretrain`` writes both; a card holds the command, the settings, the scores and the sha256 of the weights.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryoclass.backbones.spec import BackboneSpec
from cryoclass.errors import ModelError

FOLDER = Path(__file__).parent


def packaged_weights(spec: BackboneSpec) -> Path:
    """Return the weight file of a backbone whose weights come with cryoclass, its hash checked.

    Raises
    ------
    ModelError
        A file is missing or altered.
    """
    path = FOLDER / f"{spec.name}.safetensors"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", _REINSTALL) from error
    if found != packaged_card(spec).get("weights_sha256"):
        raise ModelError(f"{path} is not the file that its card describes: its sha256 differs.", _REINSTALL)
    return path


def packaged_card(spec: BackboneSpec) -> dict[str, Any]:
    """Return the card of a backbone whose weights come with cryoclass: how they were made, and what they can do.

    Raises
    ------
    ModelError
        The card is missing or damaged.
    """
    path = FOLDER / f"{spec.name}.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", _REINSTALL) from error
    if not isinstance(card, dict):
        raise ModelError(f"{path} is no card: it must be a JSON object.", _REINSTALL)
    return card


_REINSTALL = "Install cryoclass again."
