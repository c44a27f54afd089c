"""The machine: cores, memory, torch, GPU, onnxruntime, and the pretrained weights that are at hand."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import torch

from cryoclass.backbones.packaged import packaged_weights
from cryoclass.backbones.registry import BACKBONES, spec
from cryoclass.backbones.weights import cache_folder, cached_weights
from cryoclass.checks.findings import Finding, ok, plural, size, unknown, warning
from cryoclass.machine import Memory, choose_device
from cryoclass.machine import why_no_cuda as why_torch_has_no_cuda

LITTLE_MEMORY = 2e9


def check_computer(cores: int, memory: Memory) -> Iterator[Finding]:
    """Say how many cores may be used, and how much memory is free."""
    all_cores = os.cpu_count() or cores
    share = f" (of {all_cores})" if cores < all_cores else ""
    words = f"{plural(cores, 'core')}{share}, {size(memory.free)} of {size(memory.total)} memory free"
    if memory.free < LITTLE_MEMORY:
        yield warning("computer", words, "Close other programs, or use a small --batch-size.")
    else:
        yield ok("computer", words)


def check_torch() -> Iterator[Finding]:
    """Say the versions of Python, torch and torchvision, and what torch was built with."""
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    cudnn = torch.backends.cudnn.version()
    words = f"{torch.__version__}, {built}" + (f", cuDNN {_cudnn_words(cudnn)}" if cudnn else "")
    words += f", Python {platform.python_version()}"
    problem = _torchvision_problem()
    if problem:
        yield warning(
            "torch",
            f"{words}; torchvision cannot be imported: {problem}",
            "Install the torchvision that belongs to this torch; some backbones need it.",
        )
    else:
        yield ok("torch", words)


def _cudnn_words(number: int) -> str:
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _torchvision_problem() -> str:
    try:
        import torchvision  # noqa: F401
    except (
        ImportError,
        RuntimeError,
        OSError,
        AttributeError,
    ) as problem:  # a mismatch with torch shows as any
        return f"{problem}".partition("\n")[0]
    return ""


def check_gpu(wish: str) -> Iterator[Finding]:
    """Name the GPUs that torch sees, or say why there is none.

    Raises
    ------
    UsageError
        A GPU was asked for and is not there.
    """
    place = choose_device(wish)
    reason = why_torch_has_no_cuda()
    if reason and _has_nvidia():
        yield warning(
            "GPU",
            f"there is one, but torch cannot use it: {reason}",
            "Mend the driver, or install the torch that fits it; until then the CPU computes.",
        )
    elif reason:
        yield ok("GPU", f"none, the CPU computes: {reason}")
    else:
        for index in range(torch.cuda.device_count()):
            yield _gpu(index, computing_on=str(place))


def _has_nvidia() -> bool:
    return bool(shutil.which("nvidia-smi")) or Path("/dev/nvidia0").exists()


def _gpu(index: int, computing_on: str) -> Finding:
    name = torch.cuda.get_device_name(index)
    elsewhere = f"; computing on {computing_on}" if computing_on == "cpu" else ""
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as problem:  # such as a GPU that somebody else holds
        reason = str(problem).partition("\n")[0]
        return unknown("GPU", f"{name}: its memory could not be asked for ({reason}){elsewhere}")
    return ok("GPU", f"{name}, {size(free)} of {size(total)} free{elsewhere}")


def check_onnxruntime(why_no_cuda: str) -> Iterator[Finding]:
    """Say what onnxruntime can compute on, and why CUDA is not among it; the reason is empty where it works."""
    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    words = f"{onnxruntime.__version__}, built for {', '.join(names)}"
    reason = why_no_cuda.partition(": No such file")[0]
    if not reason:
        yield ok("onnxruntime", f"{words}; CUDA works")
    elif torch.cuda.is_available():
        yield warning(
            "onnxruntime",
            f"{words}; cannot use CUDA: {reason}",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'; until then --onnx computes on the CPU.",
        )
    else:
        yield ok("onnxruntime", f"{words}; no CUDA here: {reason}")


def check_weights(backbone: str) -> Iterator[Finding]:
    """Say where pretrained weights are kept, which are there, and whether those of a backbone are.

    Raises
    ------
    UsageError
        No backbone has this name.
    ModelError
        Weights that come with cryoclass are missing or altered.
    """
    entry, folder = spec(backbone), cache_folder()
    cached = [other.name for other in BACKBONES.values() if cached_weights(other)]
    packaged = [packaged_weights(other).stem for other in BACKBONES.values() if other.packaged]
    words = f"{', '.join(packaged)} with cryoclass, {', '.join(cached) or 'none'} in {folder}"
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if entry.weights is None or entry.name in cached:
        yield ok("weights", words)
    elif not os.access(there, os.W_OK):
        yield warning(
            "weights", f"{words}, which cannot be written to", "Set CRYOCLASS_CACHE to a folder of yours."
        )
    else:
        yield ok(
            "weights", f"{words}; {entry.name} would be fetched on first use ({size(entry.weights.size)})"
        )
