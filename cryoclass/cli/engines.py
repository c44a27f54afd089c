"""Choosing the engine that a command runs on."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoclass.cli import console

if TYPE_CHECKING:
    from cryoclass.inference.engines import Engine


def open_engine(
    model: Path | None, onnx: Path | None, device: str, precision: Literal["auto", "fp32", "bf16"]
) -> "Engine":
    """Return the engine for exactly one of a model folder and an ONNX file, and say what it is.

    Raises
    ------
    UsageError
        None or both are given.
    ModelError
        The model cannot be used.
    """
    from cryoclass.inference.engines import load_engine

    engine = load_engine(model, onnx, device, precision)
    card = engine.card
    console.note(
        f"model: {card.backbone}, {len(card.classes)} classes, {card.box[0]} pixels of {card.angpix:.4g} A; "
        f"{engine.description}"
    )
    return engine
