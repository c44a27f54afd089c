"""Backbone and head, the model folder that holds them, and the whole way from raw voxels to probabilities."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cryoclass.backbones.registry import Init, build_backbone, load_backbone
from cryoclass.card import MODEL_FOLDER, ModelCard, read_card, read_folder, write_folder
from cryoclass.errors import ModelError, UsageError
from cryoclass.preparation import Preparer
from cryoclass.progress import Track, silent

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
    init: Init | Path = "auto",
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
        classifier.backbone.facts = donor.backbone.facts
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds a {card.backbone}, which does not fit the backbone that was asked for.",
            f"Use --backbone {card.backbone}.",
        ) from error


# ---------------------------------------------------------------------------------------- model folder


def save_model(folder: Path, classifier: Classifier, card: ModelCard) -> ModelCard:
    """Write the weights and the card of a classifier into a folder, and return the card as written.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    return write_folder(folder, classifier.state_dict(), card, MODEL_FOLDER)


def load_model(folder: Path) -> tuple[Classifier, ModelCard]:
    """Read a model folder: the classifier, on the CPU, in evaluation mode, and its card.

    Raises
    ------
    ModelError
        A file is missing, damaged, or not the one that belongs to the other.
    """
    state, card = read_folder(folder, ModelCard, MODEL_FOLDER)
    classifier = _build_for(card, folder)
    try:
        classifier.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder / MODEL_FOLDER.weights} does not hold a {card.backbone} with {len(card.classes)} classes, as "
            f"{MODEL_FOLDER.card} says: {reason}",
            "Copy the whole model folder again, or run cryoclass finetune again.",
        ) from error
    classifier.backbone.facts = card.facts
    return classifier.eval(), card


def load_card(folder: Path) -> ModelCard:
    """Read the card of a model folder alone.

    Raises
    ------
    ModelError
        No model folder, or a card that is damaged.
    """
    return read_card(folder, ModelCard, MODEL_FOLDER)


def _build_for(card: ModelCard, folder: Path) -> Classifier:
    try:
        return Classifier(card.backbone, len(card.classes))
    except UsageError as error:
        raise ModelError(
            f"{folder / MODEL_FOLDER.card}: {error}",
            "Use the version of cryoclass that made it, or fine-tune again.",
        ) from error
