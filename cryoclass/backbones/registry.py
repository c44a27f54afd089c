"""The backbones by name. A new family is one file beside this one, and one entry in ``FAMILIES``."""

import difflib
from pathlib import Path

from cryoclass.backbones import (
    autoencoding,
    inflated,
    mtl_cect,
    r2plus1d34,
    rb3d,
    res32,
    resnet3d,
    torchvision_video,
    vivit,
    vjepa2,
)
from cryoclass.backbones.download import sha256
from cryoclass.backbones.packaged import packaged_card, packaged_weights
from cryoclass.backbones.spec import Backbone, BackboneSpec
from cryoclass.backbones.weights import fetch_weights, load_weights
from cryoclass.card import BACKBONE_FOLDER, BackboneCard, WeightFacts, read_card
from cryoclass.errors import ModelError, UsageError
from cryoclass.progress import Track, silent
from cryoclass.settings import Init

FAMILIES = (
    res32,
    resnet3d,
    torchvision_video,
    r2plus1d34,
    vivit,
    vjepa2,
    inflated,
    rb3d,
    autoencoding,
    mtl_cect,
)

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for family in FAMILIES for spec in family.SPECS}


def spec(name: str) -> BackboneSpec:
    """Return the entry of a backbone.

    Raises
    ------
    UsageError
        No backbone has this name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0.4)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(f"There is no backbone named {name!r}.", f"{meant}Known: {', '.join(BACKBONES)}.")


def build_backbone(name: str) -> Backbone:
    """Return the network of a backbone for grey boxes, randomly initialised from torch's global generator."""
    return spec(name).build(1)


def load_backbone(
    name: str,
    *,
    init: Init = "auto",
    weights: Path | None = None,
    as_pretrained: bool = False,
    track: Track = silent,
) -> Backbone:
    """Return the network of a backbone with the weights that it shall start from, and what is known of them.

    Parameters
    ----------
    name
        A key of :data:`BACKBONES`.
    init
        ``video`` takes the published weights, ``random`` none; ``auto`` takes pretrained ones, published or in the
        package, for a backbone that has them.
    weights
        A file to take instead of the published one; no network is used then.
    as_pretrained
        Whether boxes will come with the grey values that the weights were trained with, see
        :func:`cryoclass.backbones.weights.load_weights`.
    track
        Hears about a download.

    Raises
    ------
    UsageError
        An unknown name, or wishes that contradict each other.
    ModelError
        Weights that cannot be had, or do not fit. Never a silent random start.
    """
    entry = spec(name)
    _check_wishes(entry, init, weights)
    backbone = _loaded(entry, init, weights, as_pretrained, track)
    backbone.facts = facts_of_weights(name, init=init, weights=weights)
    return backbone


def facts_of_weights(name: str, *, init: Init = "auto", weights: Path | None = None) -> WeightFacts:
    """Return what is known of the weights that :func:`load_backbone` would load, without loading them.

    It stands on the card in the package, or on the ``backbone.json`` beside a weight file, where that is the file's.

    Raises
    ------
    UsageError
        No backbone has this name.
    ModelError
        A card is damaged.
    """
    entry = spec(name)
    if weights is not None:
        card = _card_beside(weights)
        return card.facts if card else WeightFacts()
    return packaged_card(entry).facts if entry.packaged and init != "random" else WeightFacts()


def _card_beside(weights: Path) -> BackboneCard | None:
    """Return the card beside a weight file; None where there is none, or it belongs to other weights.

    Raises
    ------
    ModelError
        A card is damaged, or the file is the one that pretrain wrote with it, and is not what it was.
    """
    if not (weights.is_file() and weights.with_name(BACKBONE_FOLDER.card).is_file()):
        return None
    card = read_card(weights.parent, BackboneCard, BACKBONE_FOLDER)
    if card.weights_sha256 == sha256(weights):
        return card
    if weights.name == BACKBONE_FOLDER.weights:
        raise ModelError(
            f"{weights} is damaged or altered: its sha256 is not the one in {BACKBONE_FOLDER.card} beside it.",
            f"Copy the whole {BACKBONE_FOLDER.kind} again; give the file another name where it is another one.",
        )
    return None


def _check_wishes(entry: BackboneSpec, init: Init, weights: Path | None) -> None:
    if init == "random" and weights is not None:
        raise UsageError("--init random and --weights contradict each other.", "Leave one of them out.")
    if init == "video" and weights is None and entry.weights is None:
        known = ", ".join(other.name for other in BACKBONES.values() if other.weights is not None)
        raise UsageError(
            f"{entry.name} has no weights from video.", f"Use one of {known}, or give --weights FILE."
        )


def _loaded(
    entry: BackboneSpec, init: Init, weights: Path | None, as_pretrained: bool, track: Track
) -> Backbone:
    if weights is not None:
        return load_weights(entry, weights, as_pretrained=as_pretrained)
    if init == "random" or not entry.trained_on:
        return entry.build(1)
    if entry.packaged:
        return load_weights(entry, packaged_weights(entry))
    return load_weights(entry, fetch_weights(entry, track), as_pretrained=as_pretrained)
