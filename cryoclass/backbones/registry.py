"""The backbones by name. A new family is one file beside this one, and one entry in ``FAMILIES``."""

import difflib
from pathlib import Path
from typing import Literal

from cryoclass.backbones import (
    autoencoding,
    inflated,
    r2plus1d34,
    rb3d,
    res32,
    resnet3d,
    torchvision_video,
    vivit,
    vjepa2,
)
from cryoclass.backbones.packaged import packaged_weights
from cryoclass.backbones.spec import Backbone, BackboneSpec
from cryoclass.backbones.weights import fetch_weights, load_weights
from cryoclass.errors import UsageError
from cryoclass.progress import Track, silent

FAMILIES = (res32, resnet3d, torchvision_video, r2plus1d34, vivit, vjepa2, inflated, rb3d, autoencoding)

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
    init: Literal["auto", "video", "random"] = "auto",
    weights: Path | None = None,
    as_pretrained: bool = False,
    track: Track = silent,
) -> Backbone:
    """Return the network of a backbone with the weights that it shall start from.

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
    if init == "random" and weights is not None:
        raise UsageError("--init random and --weights contradict each other.", "Leave one of them out.")
    if init == "video" and weights is None and entry.weights is None:
        known = ", ".join(other.name for other in BACKBONES.values() if other.weights is not None)
        raise UsageError(f"{name} has no weights from video.", f"Use one of {known}, or give --weights FILE.")
    if weights is not None:
        return load_weights(entry, weights, as_pretrained=as_pretrained)
    if init == "random" or not entry.trained_on:
        return entry.build(1)
    if entry.packaged:
        return load_weights(entry, packaged_weights(entry))
    return load_weights(entry, fetch_weights(entry, track), as_pretrained=as_pretrained)
