"""Pretrained weights: reading a file safely, checking it tensor by tensor, and the cache that downloads live in.

No published hash exists for the 2018 files, so a file is trusted for its structure on first use; its sha256 is then
recorded beside it and held from there on.
"""

import hashlib
import json
import logging
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pooch
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cryoclass.backbones.spec import Backbone, BackboneSpec, Weights
from cryoclass.backbones.stem import sum_channels
from cryoclass.errors import ModelError
from cryoclass.files import replacing, write_text

# torch.load meets damage in its unpickler, its zip reader or its storages, and each has errors of its own.
DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)

COUNTER = "num_batches_tracked"  # absent from files written before PyTorch 0.4.1; plays no part in inference
PREFIX = "module."  # left by DataParallel
TIMEOUT = 20  # seconds without an answer

State = dict[str, Tensor]


def load_weights(spec: BackboneSpec, path: Path) -> Backbone:
    """Build a backbone for grey boxes and fill it from a weight file, every tensor checked.

    Parameters
    ----------
    spec
        The backbone.
    path
        ``.pth``, ``.pt`` or ``.safetensors``, with three input channels as published, or one.

    Raises
    ------
    ModelError
        The file cannot be read or does not fit; the message names the first tensor that is wrong.
    """
    state = {name: value for name, value in read_state(path).items() if not name.startswith(spec.discard)}
    channels = _input_channels(state, spec, path)
    check_state(state, _layout(spec, channels), path)
    if channels == 3:
        state[spec.stem] = sum_channels(state[spec.stem])
    backbone = spec.build(1)
    expected = backbone.state_dict()
    backbone.load_state_dict({**expected, **state}, strict=True)
    return backbone


def read_state(path: Path) -> State:
    """Read the tensors of a weight file by name, on the CPU, without running any code that the file may hold.

    A wrapper such as ``{"state_dict": ..., "optimizer": ...}`` is opened and the ``module.`` of DataParallel removed.

    Raises
    ------
    ModelError
        Missing, damaged, not a weight file, or a pickle that asks for more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path given to --weights."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        raise ModelError(f"{path} holds no named tensors.", "Give a state_dict (.pth, .pt or .safetensors).")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{path}: {name} is a {type(value).__name__}; it must be a tensor.")
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def check_state(state: State, layout: Mapping[str, Tensor], path: Path) -> None:
    """Hold the tensors of a file against the names and shapes of a network.

    Raises
    ------
    ModelError
        A tensor is missing, unknown, of another shape, not finite, or a variance that is not positive.
    """
    missing = [name for name in layout if name not in state and not name.endswith(COUNTER)]
    if missing:
        raise ModelError(
            f"{path} lacks the tensor {missing[0]}{_and_more(missing)}.",
            "It may belong to another backbone (cryoclass backbones list).",
        )
    unknown = [name for name in state if name not in layout]
    if unknown:
        raise ModelError(
            f"{path} holds the tensor {unknown[0]}{_and_more(unknown)}, which this backbone does not have.",
            "It may belong to another backbone or release (cryoclass backbones list).",
        )
    for name, value in state.items():
        fault = _fault(name, value, layout[name])
        if fault:
            raise ModelError(f"{path}: the tensor {name} {fault}.", "Get the file again.")


def cache_folder() -> Path:
    """Return the folder for downloads: ``$CRYOCLASS_CACHE``, or else the platform's cache folder."""
    return Path(os.environ.get("CRYOCLASS_CACHE") or pooch.os_cache("cryoclass"))


def cached_weights(spec: BackboneSpec) -> Path | None:
    """Return the cached weight file of a backbone, unchecked, or None where it is not there."""
    path = cache_folder() / spec.weights.filename if spec.weights else None
    return path if path is not None and path.is_file() else None


def fetch_weights(spec: BackboneSpec) -> Path:
    """Return the weight file of a backbone from the cache, downloading it on first use.

    The first time, its structure is checked and its sha256 recorded beside it; every later time the sha256 must be
    the same. A file that fails is moved aside.

    Raises
    ------
    ModelError
        No address answers, or the file is not what it should be.
    """
    weights = _published(spec)
    path = cache_folder() / weights.filename
    source = str(path) if path.is_file() else _download(spec.name, weights, path)
    recorded = _recorded_hash(path)
    if recorded is None:
        return _first_use(spec, path, source)
    if _sha256(path) != recorded:
        aside = _move_aside(path)
        raise ModelError(
            f"{path} is not the file that was first used here: its sha256 differs from the one in "
            f"{_record_path(path).name}. It was moved to {aside.name}.",
            f"Run again to download it anew; delete {_record_path(path)} only if you trust the new file.",
        )
    return path


def import_weights(spec: BackboneSpec, file: Path) -> Path:
    """Copy a weight file into the cache after checking it, so that it stands for the download; return the copy.

    Raises
    ------
    ModelError
        The file does not fit the backbone.
    """
    weights = _published(spec)
    load_weights(spec, file)
    path = cache_folder() / weights.filename
    with replacing(path) as temporary:
        shutil.copyfile(file, temporary)
    _record(path, str(file))
    return path


# ------------------------------------------------------------------------------------------- reading files


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is a damaged safetensors file: {error}.", "Get the file again.") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old formats and odd pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path} is damaged, or no weight file, or asks to run code, which is refused ({reason}).",
            "Give an unbroken state_dict (.pth, .pt or .safetensors) of tensors only.",
        ) from error


def _layout(spec: BackboneSpec, channels: int) -> State:
    with torch.device("meta"):
        return spec.build(channels).state_dict()


def _input_channels(state: State, spec: BackboneSpec, path: Path) -> int:
    if spec.stem not in state:
        raise ModelError(
            f"{path} lacks the tensor {spec.stem}.", f"It does not belong to the backbone {spec.name}."
        )
    shape = tuple(state[spec.stem].shape)
    if len(shape) != 5 or shape[1] not in (1, 3):
        raise ModelError(
            f"{path}: the tensor {spec.stem} has the shape {shape}; it must take 1 or 3 channels."
        )
    return shape[1]


def _fault(name: str, value: Tensor, expected: Tensor) -> str:
    if value.shape != expected.shape:
        return f"has the shape {tuple(value.shape)}; it must be {tuple(expected.shape)}"
    if value.is_floating_point() != expected.is_floating_point():
        return f"has the type {value.dtype}; it must be like {expected.dtype}"
    if not torch.isfinite(value).all():
        return "holds values that are not finite"
    if name.endswith("running_var") and not (value > 0).all():
        return "holds variances that are not positive"
    return ""


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


# --------------------------------------------------------------------------------------------- the cache


def _published(spec: BackboneSpec) -> Weights:
    if spec.weights is None:
        raise ModelError(f"{spec.name} has no published weights.", "Use --weights FILE, or --init random.")
    return spec.weights


def _download(name: str, weights: Weights, path: Path) -> str:
    """Try each address; return the one that worked."""
    pooch.get_logger().setLevel(logging.WARNING)  # it would print a hash and an advice to the terminal
    tried = []
    for address in weights.addresses:
        try:
            pooch.retrieve(
                address,
                known_hash=None,
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
            )
        except (OSError, ValueError) as error:  # every error of requests is an OSError
            tried.append(f"{address} ({_short(error)})")
        else:
            return address
    raise ModelError(
        f"The weights of {name} cannot be downloaded (about {weights.size / 1e6:.0f} MB). Tried: {'; '.join(tried)}.",
        f"Get {weights.filename} on a computer with network, then use --weights FILE, or "
        f"cryoclass backbones import {name} FILE to keep it in {path.parent}.",
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _first_use(spec: BackboneSpec, path: Path, source: str) -> Path:
    try:
        load_weights(spec, path)
    except ModelError as error:
        aside = _move_aside(path)
        raise ModelError(f"{error} It was moved to {aside.name}.", error.hint) from error
    _record(path, source)
    return path


def _move_aside(path: Path) -> Path:
    return path.replace(path.with_name(f"{path.name}.refused"))


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path, source: str) -> None:
    content = {"sha256": _sha256(path), "bytes": path.stat().st_size, "source": source}
    write_text(_record_path(path), json.dumps(content, indent=2) + "\n")


def _recorded_hash(path: Path) -> str | None:
    """Return the hash held for ``path``; None on first use. A record that cannot be read holds no file to be right."""
    record = _record_path(path)
    if not record.is_file():
        return None
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"{record} is damaged: it must hold the sha256 of {path.name}.",
            "Delete it where you trust the file beside it.",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
