"""Cards: what has to be known of weights to use them, as JSON beside them and in the metadata of an ONNX file.

A card carries the number of its format. An older one is brought up to date by :func:`_migrated`, a newer one is refused. Fields
that a file lacks get defaults; fields that are not known here are kept and written again.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, from_json, to_json
from torch import Tensor

from cryoclass.errors import ModelError, UsageError
from cryoclass.files import replacing
from cryoclass.inputs import is_no_file, read_file
from cryoclass.settings import Preparation
from cryoclass.volumes.contrast import Contrast

FORMAT: Literal[2] = 2
INPUT = "subtomogram"  # the name of the voxels in an ONNX file
CARD_KEY = "cryoclass_card"  # where an ONNX file keeps the card, in its metadata

State = Mapping[str, Tensor]
Text = str | bytes

# ---------------------------------------------------------------------------------------------- fields


def _read_preparation(value: Any) -> Any:
    """Read a preparation whole: a field too many or too few would change what the network sees."""
    if isinstance(value, Preparation):
        return value
    names = [field.name for field in dataclasses.fields(Preparation)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise ValueError(f"it must be an object with {', '.join(names)}")
    try:
        read = _PREPARATION.validate_json(to_json(value), strict=True)
    except UsageError as error:
        raise ValueError(str(error)) from error
    low, high = read.limits
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"limits is {value['limits']}; it must be two rising numbers")
    return read


_PREPARATION = TypeAdapter(Preparation)

Side = Annotated[int, Field(ge=1, le=4096)]
Angstroms = Annotated[float, Field(gt=0, le=10_000)]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
OutputName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]  # becomes the name of a file
Length = Annotated[int, Field(ge=1, le=2**24)]
Axes = tuple[Length | str, ...]

PARTICLES, CLASSES = "N", "classes"  # axes that are as long as there are particles, or classes on the card
EMBEDDING = "embedding"  # the output that every model gives
STATUS = "status"  # stored beside the outputs, so that none may be named so


class _Kept(BaseModel):
    """Frozen, and keeps the fields of a file that are not known here."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again."""
        return type(self)(**{**dict(self), **changes})


class LearntFrom(_Kept):
    """What weights have learnt from; empty where nobody knows.

    Parameters
    ----------
    pixel_range
        Smallest and largest voxel of the network's own grid, in angstroms.
    contrast
        Whether particles were brighter than their surroundings.
    """

    pixel_range: tuple[Angstroms, Angstroms] | None = None
    contrast: Contrast = "unknown"

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.pixel_range is not None or self.contrast != "unknown"


class WeightFacts(_Kept):
    """What is a fact of weights, not of the network that holds them.

    Parameters
    ----------
    natural_units
        The numbers of the embedding weigh as much as they say about the species, so nobody should standardise them.
    learnt_from
        What they have learnt from.
    """

    natural_units: bool = False
    learnt_from: LearntFrom = LearntFrom()


# ----------------------------------------------------------------------------------------------- cards


class Card(_Kept):
    """What every card says.

    Parameters
    ----------
    format
        Number of this way of writing a card.
    backbone
        A key of the registry.
    preparation
        What turns boxes into network input.
    natural_units, learnt_from
        As :class:`WeightFacts`.
    outputs
        The axes of each named output, in the order in which the model gives them. An axis is a length or a name; ``N`` is
        as long as there are particles, ``classes`` as there are classes on the card, any other name as the boxes or the network
        make it.
    versions
        The software that made the weights; for people.
    weights_sha256, bytes
        Hash and length of the weight file that the card belongs to; filled in by :func:`write_folder`.
    """

    format: Literal[2] = FORMAT
    backbone: str
    preparation: Annotated[Preparation, BeforeValidator(_read_preparation)]
    natural_units: bool = False
    learnt_from: LearntFrom = LearntFrom()
    outputs: dict[OutputName, Axes] = {EMBEDDING: (PARTICLES, "width")}
    versions: dict[str, Any] = {}
    weights_sha256: Sha256 = ""
    bytes: int = 0

    @field_validator("outputs")
    @classmethod
    def _stored_by_particle(cls, outputs: dict[str, Axes]) -> dict[str, Axes]:
        if STATUS in outputs or not all(axes[:1] == (PARTICLES,) for axes in outputs.values()):
            raise ValueError(
                f"it must give {PARTICLES} as first axis of each output, and none named {STATUS}"
            )
        return outputs

    @property
    def facts(self) -> WeightFacts:
        """The facts of the weights alone."""
        return WeightFacts(natural_units=self.natural_units, learnt_from=self.learnt_from)

    def to_json(self) -> str:
        """Return the card as text; numbers that JSON lacks (NaN, infinity) become null."""
        return json.dumps(_plain(self.model_dump()), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: Text, where: str) -> Self:
        """Read a card; ``where`` says in messages which file it comes from.

        Raises
        ------
        ModelError
            Not JSON, of a newer format, or a field is missing or out of its limits.
        """
        content = _migrated(_json_object(text, where), where)
        try:
            return cls.model_validate_json(to_json(content), strict=True)
        except ValidationError as error:
            raise _refusal(error.errors()[0], where) from error

    @property
    def lengths(self) -> dict[str, Axes]:
        """The axes of each output, as far as the card knows their lengths."""
        return dict(self.outputs)


class ModelCard(Card):
    """What has to be known of a trained classifier to use it.

    Parameters
    ----------
    classes
        Names in the order of the outputs.
    angpix
        Pixel size in angstroms of the boxes that it was trained on.
    box
        Depth, height and width in pixels of those boxes.
    any_box
        Whether it has learnt from boxes of many pixel sizes, so that particles may have any pixel size and box; those of the card
        are then an example.
    contrast
        Whether particles were brighter than their surroundings.
    tasks
        What it does, by name (:mod:`cryoclass.tasks`).
    calibration
        The temperature that the head's numbers have been divided by, and on what it was fitted; empty where they were not.
    familiarity
        On what the unknown score rests; empty where there is none.
    training, metrics
        What was done, and what came out; for people, never read back, as are the two before.
    """

    outputs: dict[OutputName, Axes] = {
        "probabilities": (PARTICLES, CLASSES),
        "logits": (PARTICLES, CLASSES),
        EMBEDDING: (PARTICLES, "width"),
    }
    classes: tuple[str, ...]
    angpix: Angstroms
    box: tuple[Side, Side, Side]
    any_box: bool = False
    contrast: Contrast = "unknown"
    tasks: tuple[str, ...] = ("classify",)
    calibration: dict[str, Any] = {}
    familiarity: dict[str, Any] = {}
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}

    @property
    def size_in_words(self) -> str:
        """The boxes that it takes, for people."""
        return "boxes of any size" if self.any_box else f"{self.box[0]} pixels of {self.angpix:.4g} A"

    @field_validator("classes")
    @classmethod
    def _named(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("it must be a list of names without repetition")
        if not classes and any(CLASSES in axes for axes in info.data.get("outputs", {}).values()):
            raise ValueError("it must be a list of names")
        return classes

    @property
    def lengths(self) -> dict[str, Axes]:
        """The axes of each output, as far as the card knows their lengths."""
        return with_classes(self.outputs, len(self.classes))


class BackboneCard(Card):
    """How the weights of a backbone were made, and what they can do.

    Parameters
    ----------
    command, start, device, threads
        How and where they were made, and from what.
    boxes, own_particles
        How many boxes were seen, and how many of the user's particles were among them.
    scores
        What came out.
    pretraining, invention
        The settings.
    """

    command: str = ""
    start: str = ""
    device: str = ""
    threads: int = 0
    boxes: int = 0
    own_particles: int = 0
    scores: dict[str, Any] = {}
    pretraining: dict[str, Any] = {}
    invention: dict[str, Any] = {}


def with_classes(outputs: Mapping[str, Axes], classes: int) -> dict[str, Axes]:
    """Return the axes of outputs with the number of classes in the place of their name."""
    return {
        name: tuple(classes if axis == CLASSES else axis for axis in axes) for name, axes in outputs.items()
    }


AnyCard = TypeVar("AnyCard", bound=Card)

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


def check_said(said: Mapping[str, Axes], card: Card, where: str) -> None:
    """Hold the shapes of what a model gives against its card.

    Parameters
    ----------
    said
        Shape of each named output; a length that is not known yet has a name.
    card
        What the model is said to give.
    where
        Says in messages which model it is.

    Raises
    ------
    ModelError
        An output is missing, unknown or of another shape.
    """
    wanted = card.lengths
    fits = said.keys() == wanted.keys() and all(_agree(said[name], axes) for name, axes in wanted.items())
    if not fits:
        raise ModelError(
            f"{where} does not fit its own model card: it gives {_shapes(said)}, and the card says {_shapes(wanted)}.",
            "Make the model again: cryoclass finetune, or cryoclass export.",
        )


def _agree(shape: Axes, axes: Axes) -> bool:
    """Say whether a shape has these axes, of which only the numbers are known."""
    return len(shape) == len(axes) and all(
        not isinstance(axis, int) or side == axis for side, axis in zip(shape, axes, strict=True)
    )


def _shapes(outputs: Mapping[str, Axes]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, axes))}" for name, axes in outputs.items())


# --------------------------------------------------------------------------------------- reading and writing


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path):  # a path may hold bytes that are no text
        return str(value).encode("utf-8", "backslashreplace").decode()
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_object(text: Text, where: str) -> dict[str, Any]:
    try:
        content = from_json(text)
    except (
        ValueError
    ) as error:  # it also refuses what is nested too deep, half characters and endless numbers
        raise ModelError(f"{where} is not valid JSON: {error}.", _CARD_HINT) from error
    json.loads(text, object_pairs_hook=lambda pairs: _once_each(pairs, where))
    if not isinstance(content, dict):
        raise ModelError(f"{where} is not a model card: it must be a JSON object.", _CARD_HINT)
    return content


def _once_each(pairs: Sequence[tuple[str, Any]], where: str) -> None:
    """Refuse a field that stands twice: readers of JSON do not agree on which one counts."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"{where}: the field {twice!r} stands there twice.", _CARD_HINT)


def _migrated(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Bring the content of a card to the format of today."""
    number = content.get("format", 1)  # the first cards carried no number
    if type(number) is not int or number < 1:
        raise ModelError(
            f"{where}: the field 'format' is {reprlib.repr(number)}; it must be a whole number from 1.",
            _CARD_HINT,
        )
    if number > FORMAT:
        raise ModelError(
            f"{where} has the format {number}; this version of cryoclass reads cards up to format {FORMAT}.",
            "Use a newer cryoclass: pip install --upgrade cryoclass",
        )
    return _from_format_1(content) if number == 1 else content


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Add what format 1 left to the name of the network, and to the settings of its pre-training."""
    invention = content.get("invention")
    seen = invention.get("pixel_range") if isinstance(invention, dict) else None
    added = {
        "natural_units": content.get("backbone") in ("res32", "res32-species"),
        "learnt_from": {} if seen is None else {"pixel_range": seen, "contrast": "bright"},
    }
    return {**added, **content, "format": FORMAT}


def _refusal(problem: ErrorDetails, where: str) -> ModelError:
    *within, last = problem["loc"]
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    if problem["type"] == "missing":
        if not within:
            return ModelError(f"{where}: the field {last!r} is missing.", _CARD_HINT)
        rule, last = "it has too few parts", within.pop()
    name = ".".join(map(str, (*within, last)))
    value = reprlib.repr(problem["input"])
    return ModelError(f"{where}: the field {name!r} is {value}; {rule.rstrip('.')}.", _CARD_HINT)


# --------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True, kw_only=True)
class FolderNames:
    """The two files of a folder that holds weights, and what it is.

    Parameters
    ----------
    weights, card
        Names of the files.
    kind
        What the folder is called.
    command
        What writes it.
    """

    weights: str
    card: str
    kind: str
    command: str


MODEL_FOLDER = FolderNames(
    weights="model.safetensors", card="model.json", kind="model folder", command="cryoclass finetune"
)
BACKBONE_FOLDER = FolderNames(
    weights="backbone.safetensors",
    card="backbone.json",
    kind="backbone folder",
    command="cryoclass pretrain",
)


def write_folder(folder: Path, state: State, card: AnyCard, names: FolderNames) -> AnyCard:
    """Write weights and their card into a folder, and return the card as written.

    Both files are written beside their final names and moved into place, the card last: it says that all is there.

    Parameters
    ----------
    folder
        Made where it is missing.
    state
        Tensors by name.
    card
        What is known of them; hash and length are filled in.
    names
        Which kind of folder.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    weights = safetensors.torch.save(tensors)
    card = card.replace(weights_sha256=hashlib.sha256(weights).hexdigest(), bytes=len(weights))
    with replacing(folder / names.card) as new_card, replacing(folder / names.weights) as new_weights:
        new_weights.write_bytes(weights)
        new_card.write_text(card.to_json(), encoding="utf-8")
    return card


def read_folder(folder: Path, kind: type[AnyCard], names: FolderNames) -> tuple[dict[str, Tensor], AnyCard]:
    """Read a folder that holds weights and their card: the tensors by name, on the CPU, and the card.

    Raises
    ------
    ModelError
        A file is missing, damaged, or not the one that belongs to the other.
    """
    card = read_card(folder, kind, names)
    path = folder / names.weights
    weights = _read_bytes(path, names)
    hint = f"Copy the whole {names.kind} again, or run {names.command} again."
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise ModelError(
            f"{path} is damaged or altered: its sha256 is not the one in {names.card} ({len(weights)} bytes).",
            hint,
        )
    try:
        return safetensors.torch.load(weights), card
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is no safetensors file: {error}.", hint) from error


def read_card(folder: Path, kind: type[AnyCard], names: FolderNames) -> AnyCard:
    """Read the card of a folder alone.

    Raises
    ------
    ModelError
        No such folder, or a card that is damaged.
    """
    path = folder / names.card
    return kind.from_json(_read_bytes(path, names), str(path))


def _read_bytes(path: Path, names: FolderNames) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        what = _instead(path.parent, names) or f"{path} cannot be read: {error.strerror or error}."
        raise ModelError(
            what,
            f"A {names.kind} is what {names.command} writes; it holds {names.weights} and {names.card}.",
        ) from error


def _instead(folder: Path, names: FolderNames) -> str:
    """Say what was given in the place of a folder; empty where it is a folder."""
    if folder.suffix == ".onnx" and folder.is_file():
        return f"{folder} is an ONNX file, no {names.kind}: give it with --onnx."
    if folder.is_file():
        return f"{folder} is a file, no {names.kind}."
    if folder.exists() and not folder.is_dir():
        return f"{folder} is no {names.kind}: {is_no_file(folder)}."
    return "" if folder.is_dir() else f"There is no {names.kind} {folder}."
