"""The weights that come with cryoclass: ``NAME.safetensors`` and, beside it, ``NAME.json``, the card that says what it is.

``cryoclass pretrain`` writes both; a card holds the command, the settings, the scores and the sha256 of the weights.
"""

import hashlib
from pathlib import Path

from cryoclass.backbones.spec import BackboneSpec
from cryoclass.card import BackboneCard
from cryoclass.errors import ModelError
from cryoclass.inputs import read_file

FOLDER = Path(__file__).parent


def packaged_weights(spec: BackboneSpec) -> Path:
    """Return the weight file of a backbone whose weights come with cryoclass, its hash checked.

    Raises
    ------
    ModelError
        A file is missing or altered.
    """
    path = FOLDER / f"{spec.name}.safetensors"
    if hashlib.sha256(_read(path)).hexdigest() != packaged_card(spec).weights_sha256:
        raise ModelError(f"{path} is not the file that its card describes: its sha256 differs.", _REINSTALL)
    return path


def packaged_card(spec: BackboneSpec) -> BackboneCard:
    """Return the card of a backbone whose weights come with cryoclass: how they were made, and what they can do.

    Raises
    ------
    ModelError
        The card is missing or damaged.
    """
    path = FOLDER / f"{spec.name}.json"
    try:
        return BackboneCard.from_json(_read(path), str(path))
    except ModelError as error:
        raise ModelError(str(error), _REINSTALL) from error


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", _REINSTALL) from error


_REINSTALL = "Install cryoclass again."
