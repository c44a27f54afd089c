"""What a training run needs to go on after a kill: one file, replaced after every epoch."""

from pathlib import Path
from typing import Any

import torch

from cryoclass.backbones.weights import DAMAGE
from cryoclass.errors import ModelError, UsageError
from cryoclass.files import replacing

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], settings: dict[str, str]) -> None:
    """Write ``state`` (tensors and plain values by name) and the settings it belongs to.

    Raises
    ------
    OutputError
        The disk is full, or the folder cannot be written.
    """
    with replacing(folder / NAME) as temporary, temporary.open("wb") as out:
        try:
            torch.save({**state, "settings": settings}, out)
        except RuntimeError as error:  # where a write fails, torch fails again on closing its archive
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(folder: Path, keys: set[str], settings: dict[str, str]) -> dict[str, Any] | None:
    """Return the state in ``folder``, on the CPU; None where there is no checkpoint yet.

    Parameters
    ----------
    folder
        Where :func:`save_checkpoint` wrote.
    keys
        Names in the state.
    settings
        What the run that goes on is made with.

    Raises
    ------
    ModelError
        The file is damaged.
    UsageError
        It was made with other settings or particles, so going on would not give the result of an unbroken run.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        complete = set(state) == {*keys, "settings"}
    except (*DAMAGE, OSError):
        complete = False
    if not complete:
        raise ModelError(
            f"{path} is damaged or was not made by cryoclass.", "Leave out --resume to start again."
        )
    saved = state["settings"]
    changed = [name for name in settings if saved.get(name) != settings[name]]
    if changed:
        values = "; ".join(f"{name} was {saved.get(name)}, now {settings[name]}" for name in changed)
        raise UsageError(
            f"{path} belongs to another run: {values}.",
            "Repeat the first command with --resume added, or leave out --resume to start again.",
        )
    return state
