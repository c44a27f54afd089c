"""The weights that come with cryoclass: ``NAME.safetensors`` and, beside it, ``NAME.json``, the card that says what it is.

``cryoclass pretrain`` writes both; a card holds the command, the settings, the scores and the sha256 of the weights. Of the model
that tells masks and densities, decoder and heads alone lie here: its backbone is there already.
"""

import hashlib
from pathlib import Path

import safetensors.torch

from cryoclass.backbones.spec import BackboneSpec, State
from cryoclass.card import MODEL_FOLDER, BackboneCard, FolderNames, ModelCard, read_folder, write_folder
from cryoclass.errors import ModelError
from cryoclass.inputs import read_file

FOLDER = Path(__file__).parent

VOXEL_MODEL = "res32-species-voxels"
"""Name of the model that tells masks and densities of particles of any kind; it stands for a model folder."""


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


def voxel_card() -> ModelCard:
    """Return the card of the model that tells masks and densities.

    Raises
    ------
    ModelError
        The card is missing or damaged.
    """
    path = FOLDER / f"{VOXEL_MODEL}.json"
    try:
        return ModelCard.from_json(_read(path), str(path))
    except ModelError as error:
        raise ModelError(str(error), _REINSTALL) from error


def voxel_weights() -> State:
    """Return the tensors of its decoder and heads by name, their hash checked.

    Raises
    ------
    ModelError
        A file is missing or altered.
    """
    path = FOLDER / f"{VOXEL_MODEL}.safetensors"
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != voxel_card().weights_sha256:
        raise ModelError(f"{path} is not the file that its card describes: its sha256 differs.", _REINSTALL)
    return safetensors.torch.load(content)


def write_voxel_model(model: Path, folder: Path = FOLDER) -> None:
    """Keep, of what ``pretrain --tasks`` has written, decoder and heads: how the files of this folder are made.

    Raises
    ------
    ModelError
        It is no such model folder.
    OutputError
        The folder cannot be written.
    """
    state, card = read_folder(model, ModelCard, MODEL_FOLDER)
    own = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    names = FolderNames(
        weights=f"{VOXEL_MODEL}.safetensors",
        card=f"{VOXEL_MODEL}.json",
        kind="packaged model",
        command="cryoclass pretrain",
    )
    write_folder(folder, own, card, names)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", _REINSTALL) from error


_REINSTALL = "Install cryoclass again."
