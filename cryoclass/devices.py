"""Which processor to compute on."""

import re
import warnings

import torch

from cryoclass.errors import UsageError


def choose_device(wish: str = "auto") -> torch.device:
    """Turn ``--device`` into a device that exists.

    Parameters
    ----------
    wish
        ``auto`` (the first CUDA GPU, or else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    UsageError
        An unknown name, or a CUDA GPU that is not there; says why.
    """
    check_name(wish)
    if wish == "cpu":
        return torch.device("cpu")
    absent = why_no_cuda()
    if absent and wish == "auto":
        return torch.device("cpu")
    if absent:
        raise UsageError(
            f"--device is {wish}, but there is no CUDA GPU to use: {absent}.", "Use --device cpu."
        )
    device = torch.device("cuda:0" if wish == "auto" else wish)
    if (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device is {wish}, but there are only {torch.cuda.device_count()} CUDA GPUs, counted from 0."
        )
    return device


def check_name(wish: str) -> None:
    """Raise a UsageError where ``wish`` is no name of a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wish):
        raise UsageError(f"--device is {wish!r}; it must be auto, cpu, cuda or cuda:N.")


def why_no_cuda() -> str:
    """Return the reason why CUDA cannot be used, or an empty string where it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    reason = (
        str(said[0].message).partition("\n")[0].rstrip(".") if said else "torch finds no NVIDIA GPU or driver"
    )
    return f"{reason} (torch {torch.__version__})"
