"""The model: what it is, where it would run."""

from collections.abc import Iterator

from cryoclass.card import ModelCard
from cryoclass.checks.findings import Finding, ok

SHOWN_CLASSES = 6


def check_model(card: ModelCard, engine: str) -> Iterator[Finding]:
    """Say what a model is and where it would run; opening it has shown that it is whole."""
    more = len(card.classes) - SHOWN_CLASSES
    names = ", ".join(card.classes[:SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
    contrast = "" if card.contrast == "unknown" else f", {card.contrast} particles"
    what = f"{len(card.classes)} classes ({names})" if card.classes else ", ".join(card.tasks)
    yield ok("model", f"{card.backbone} for {what}, {card.size_in_words}{contrast}; {engine}")
