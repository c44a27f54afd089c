"""Backbone and head, the model folder that holds them, and the whole way from raw voxels to probabilities."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cryoclass.backbones.registry import build_backbone, load_backbone
from cryoclass.errors import ModelError, UsageError
from cryoclass.files import replacing
from cryoclass.preparation import Preparer
from cryoclass.progress import Track, silent
from cryoclass.settings import BeamAxis, DepthPolicy, Intensity, Preparation, Size3

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
CARD_KEY = "cryoclass_card"  # where an ONNX file keeps the card, in its metadata

Contrast = Literal["bright", "dark", "unknown"]


# -------------------------------------------------------------------------------------------- networks


class Outputs(NamedTuple):
    """What a classifier says: ``logits`` (N, K) and ``embedding`` (N, E)."""

    logits: Tensor
    embedding: Tensor


class WholeOutputs(NamedTuple):
    """What the whole model says: ``probabilities`` and ``logits`` (N, K), ``embedding`` (N, E), all float32."""

    probabilities: Tensor
    logits: Tensor
    embedding: Tensor


class Classifier(nn.Module):
    """A backbone with a linear head, randomly initialised.

    Parameters
    ----------
    backbone_name
        A key of the registry.
    classes
        How many classes, K.
    """

    def __init__(self, backbone_name: str, classes: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone_name)
        self.head = nn.Linear(self.backbone.width, classes)

    def forward(self, x: Tensor) -> Outputs:
        """Turn prepared boxes ``(N, 1, D, H, W)`` into logits and embedding."""
        embedding = self.backbone(x)
        return Outputs(self.head(embedding), embedding)


class WholeModel(nn.Module):
    """Raw voxels in, probabilities out: the module that the torch engine runs and that is exported."""

    def __init__(self, preparer: Preparer, classifier: Classifier) -> None:
        super().__init__()
        self.preparer = preparer
        self.classifier = classifier

    def forward(self, raw: Tensor) -> WholeOutputs:
        """Turn raw float32 voxels ``(N, D, H, W)`` of any box into float32 outputs.

        Grey values and softmax are computed in float32, whatever the type of the classifier's weights.
        """
        prepared = self.preparer(raw).to(self.classifier.head.weight.dtype)
        outputs = self.classifier(prepared)
        logits = outputs.logits.float()
        return WholeOutputs(torch.softmax(logits, dim=1), logits, outputs.embedding.float())


def start_classifier(
    backbone_name: str,
    classes: int,
    *,
    init: Literal["auto", "video", "random"] | Path = "auto",
    weights: Path | None = None,
    as_pretrained: bool = False,
    track: Track = silent,
) -> Classifier:
    """Return a classifier whose backbone is ready to be fine-tuned; the head is always random.

    Parameters
    ----------
    backbone_name
        A key of the registry.
    classes
        How many classes.
    init, weights, as_pretrained, track
        As for :func:`cryoclass.backbones.registry.load_backbone`; ``init`` may also be a model folder, whose backbone
        is taken over.

    Raises
    ------
    UsageError, ModelError
        The backbone is not known, or its weights cannot be had.
    """
    classifier = Classifier(backbone_name, classes)
    if not isinstance(init, Path):
        classifier.backbone = load_backbone(
            backbone_name, init=init, weights=weights, as_pretrained=as_pretrained, track=track
        )
    elif weights is None:
        _take_backbone(classifier, init)
    else:
        raise UsageError(f"--init {init} and --weights contradict each other.", "Leave one of them out.")
    return classifier


def _take_backbone(classifier: Classifier, folder: Path) -> None:
    donor, card = load_model(folder)
    try:
        classifier.backbone.load_state_dict(donor.backbone.state_dict(), strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds a {card.backbone}, which does not fit the backbone that was asked for.",
            f"Use --backbone {card.backbone}.",
        ) from error


# ------------------------------------------------------------------------------------------ model card


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What has to be known of a trained classifier to use it; ``model.json``, and the metadata of an ONNX file.

    Parameters
    ----------
    backbone
        A key of the registry.
    classes
        Names in the order of the outputs.
    angpix
        Pixel size in angstroms of the boxes that it was trained on.
    box
        Depth, height and width in pixels of those boxes.
    contrast
        Whether particles were brighter than their surroundings.
    preparation
        What turns such boxes into network input.
    training, metrics, versions
        What was done, what came out, and with which software; for people, never read back.
    weights_sha256
        Hash of the weight file that the card belongs to; filled in by :func:`save_model`.
    """

    backbone: str
    classes: tuple[str, ...]
    angpix: float
    box: Size3
    contrast: Contrast
    preparation: Preparation
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""

    def to_json(self) -> str:
        """Return the card as text; numbers that JSON lacks (NaN, infinity) become null."""
        content = {**dataclasses.asdict(self), "preparation": self.preparation.to_dict()}
        return json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read a card; ``where`` says in messages which file it comes from.

        Raises
        ------
        ModelError
            Not JSON, or a field is missing, unknown, or out of its limits.
        """
        content = _json_object(text, where)
        for name in [*_READERS, *content]:
            if name not in content or name not in _READERS:
                state = "unknown" if name in content else "missing"
                raise ModelError(f"{where}: the field {name!r} is {state}.", _CARD_HINT)
        return cls(**{name: _read_field(name, value, where) for name, value in content.items()})


_CARD_HINT = "Make the file again with this version of cryoclass, or use the version that made it."


def current_versions() -> dict[str, Any]:
    """Return the versions of the software that runs now, for a card."""
    return {
        "cryoclass": cryoclass_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def cryoclass_version() -> str:
    """Return the version of this package; ``unknown`` in a source tree that is not installed."""
    try:
        return importlib.metadata.version("cryoclass")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{where} is not valid JSON: {error}.", _CARD_HINT) from error
    if not isinstance(content, dict):
        raise ModelError(f"{where} is not a model card: it must be a JSON object.", _CARD_HINT)
    return content


def _read_field(name: str, value: Any, where: str) -> Any:
    try:
        return _READERS[name](value)
    except UsageError as error:
        raise ModelError(f"{where}: the field {name!r} is wrong: {error}", _CARD_HINT) from error
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{where}: the field {name!r} is {value!r}; {error}.", _CARD_HINT) from error


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"it must be {rule}")


def _text(value: Any) -> str:
    _must(isinstance(value, str), "a text")
    return str(value)


def _object(value: Any) -> dict[str, Any]:
    _must(isinstance(value, dict), "an object")
    return dict(value)


def _names(value: Any) -> tuple[str, ...]:
    _must(isinstance(value, list) and len(value) > 0, "a list of names")
    _must(all(isinstance(name, str) for name in value), "a list of names")
    _must(len(set(value)) == len(value), "a list of names without repetition")
    return tuple(value)


def _pixel_size(value: Any) -> float:
    _must(type(value) in (int, float) and math.isfinite(value) and value > 0, "a number above 0")
    return float(value)


def _sides(value: Any) -> Size3:
    _must(isinstance(value, list) and len(value) == 3, "three whole numbers")
    _must(all(type(side) is int and side > 0 for side in value), "three whole numbers above 0")
    depth, height, width = value
    return (depth, height, width)


def _preparation(value: Any) -> Preparation:
    content = _object(value)
    _must(set(content) == set(_PREPARATION), f"an object with {', '.join(_PREPARATION)}")
    return Preparation(**{name: read(content[name]) for name, read in _PREPARATION.items()})


def _one_of(kind: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        _must(value in get_args(kind), " or ".join(get_args(kind)))
        return value

    return read


def _limits(value: Any) -> tuple[float, float]:
    _must(isinstance(value, list) and len(value) == 2, "two numbers")
    _must(all(type(number) in (int, float) and math.isfinite(number) for number in value), "two numbers")
    low, high = value
    _must(low < high, "two rising numbers")
    return (float(low), float(high))


_PREPARATION: dict[str, Callable[[Any], Any]] = {
    "input_size": _sides,
    "intensity": _one_of(Intensity),
    "depth": _one_of(DepthPolicy),
    "beam_axis": _one_of(BeamAxis),
    "limits": _limits,
}


def _hash(value: Any) -> str:
    _must(isinstance(value, str) and len(value) in (0, 64), "a sha256")
    return str(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "backbone": _text,
    "classes": _names,
    "angpix": _pixel_size,
    "box": _sides,
    "contrast": _one_of(Contrast),
    "preparation": _preparation,
    "training": _object,
    "metrics": _object,
    "versions": _object,
    "weights_sha256": _hash,
}


# ---------------------------------------------------------------------------------------- model folder


_FOLDER_HINT = "Copy the whole model folder again, or run cryoclass finetune again."


def save_model(folder: Path, classifier: Classifier, card: ModelCard) -> ModelCard:
    """Write the weights and the card of a classifier into a folder, and return the card as written.

    Both files are written beside their final names and moved into place, the card last: it says that all is there.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    weights = safetensors.torch.save(state)
    card = dataclasses.replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    with replacing(folder / CARD_FILE) as new_card, replacing(folder / WEIGHTS_FILE) as new_weights:
        new_weights.write_bytes(weights)
        new_card.write_text(card.to_json(), encoding="utf-8")
    return card


def load_model(folder: Path) -> tuple[Classifier, ModelCard]:
    """Read a model folder: the classifier, on the CPU, in evaluation mode, and its card.

    Raises
    ------
    ModelError
        A file is missing, damaged, or not the one that belongs to the other.
    """
    card = load_card(folder)
    path = folder / WEIGHTS_FILE
    weights = _read_bytes(path)
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise ModelError(
            f"{path} is damaged or altered: its sha256 is not the one in {CARD_FILE} ({len(weights)} bytes).",
            _FOLDER_HINT,
        )
    classifier = _build_for(card, folder)
    try:
        classifier.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path} does not hold a {card.backbone} with {len(card.classes)} classes, as {CARD_FILE} says: {reason}",
            _FOLDER_HINT,
        ) from error
    return classifier.eval(), card


def load_card(folder: Path) -> ModelCard:
    """Read the card of a model folder alone.

    Raises
    ------
    ModelError
        No model folder, or a card that is damaged.
    """
    path = folder / CARD_FILE
    try:
        text = _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text: {error.reason}.", _CARD_HINT) from error
    return ModelCard.from_json(text, str(path))


def _build_for(card: ModelCard, folder: Path) -> Classifier:
    try:
        return Classifier(card.backbone, len(card.classes))
    except UsageError as error:
        raise ModelError(f"{folder / CARD_FILE}: {error}", _CARD_HINT) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = _instead(path.parent) or f"{path} cannot be read: {error.strerror or error}."
        raise ModelError(
            what,
            f"A model folder is what cryoclass finetune writes; it holds {WEIGHTS_FILE} and {CARD_FILE}.",
        ) from error


def _instead(folder: Path) -> str:
    """Say what was given in the place of a model folder; empty where it is a folder."""
    if folder.suffix == ".onnx" and folder.is_file():
        return f"{folder} is an ONNX file, no model folder: give it with --onnx."
    if folder.is_file():
        return f"{folder} is a file, no model folder."
    return "" if folder.is_dir() else f"There is no model folder {folder}."
