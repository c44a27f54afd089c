"""Choosing the engine that a command runs on."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoclass.cli import console
from cryoclass.errors import UsageError

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
    if (model is None) == (onnx is None):
        raise UsageError(
            "give one of --model and --onnx.",
            "--model Finetune/ is what finetune wrote, --onnx what export wrote.",
        )
    from cryoclass.classifier import WholeModel, load_model
    from cryoclass.devices import choose_device
    from cryoclass.inference.engines import OnnxEngine, TorchEngine
    from cryoclass.preparation import Preparer

    engine: Engine
    if onnx is not None:
        if precision == "bf16":
            raise UsageError("--precision bf16 does not go with --onnx, whose precision is chosen by export.")
        engine = OnnxEngine(onnx, device)
    else:
        assert model is not None  # noqa: S101 - one of the two is given
        place = choose_device(device)
        classifier, card = load_model(model)
        engine = TorchEngine(WholeModel(Preparer(card.preparation), classifier), card, place, precision)
    card = engine.card
    console.note(
        f"model: {card.backbone}, {len(card.classes)} classes, {card.box[0]} pixels of {card.angpix:.4g} A; "
        f"{engine.description}"
    )
    return engine
