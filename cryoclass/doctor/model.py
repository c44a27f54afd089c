"""The model: whether it can be used, and what it learnt from."""

from collections.abc import Iterator

from cryoclass.backbones.registry import facts_of_weights
from cryoclass.backbones.spec import BackboneSpec
from cryoclass.card import ModelCard
from cryoclass.doctor.findings import Finding, ok, warning
from cryoclass.inference.compatibility import outside_domain
from cryoclass.sources import Source
from cryoclass.volumes.contrast import Contrast

SHOWN_CLASSES = 6


def check_model(card: ModelCard, engine: str) -> Iterator[Finding]:
    """Say what a model is and where it would run; opening it has shown that it is whole."""
    more = len(card.classes) - SHOWN_CLASSES
    names = ", ".join(card.classes[:SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
    contrast = "" if card.contrast == "unknown" else f", {card.contrast} particles"
    yield ok(
        "model",
        f"{card.backbone} for {len(card.classes)} classes ({names}), boxes of {card.box[0]} pixels of "
        f"{card.angpix:.4g} A{contrast}; {engine}",
    )


def check_domain(source: Source, contrast: Contrast, spec: BackboneSpec) -> Iterator[Finding]:
    """Say whether boxes are like those that the usual weights of a backbone have learnt from, where that is known."""
    learnt_from = facts_of_weights(spec.name).learnt_from
    if not learnt_from.known:
        return
    found = outside_domain(source, contrast, spec.name, learnt_from, spec.resolve())
    for words in found:
        yield warning("network", words, "")
    if not found:
        yield ok("network", f"{spec.name} has learnt from boxes of this pixel size and contrast")
