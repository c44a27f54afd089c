"""Pretrained weights: reading a file safely, checking it tensor by tensor, and the cache that downloads live in.

Many files have no published hash, so a file is trusted for its structure on first use; its sha256 is then recorded beside
it and held from there on.
"""

import errno
import fcntl
import json
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pooch
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cryoclass.backbones.download import check_hash, download, sha256
from cryoclass.backbones.onnx_copy import read_onnx
from cryoclass.backbones.packaged import packaged_weights
from cryoclass.backbones.spec import Address, Backbone, BackboneSpec, State, Weights
from cryoclass.backbones.stem import grey_stem
from cryoclass.errors import ModelError, UsageError
from cryoclass.files import output_error, replacing, write_text
from cryoclass.inputs import open_file
from cryoclass.progress import Track, silent

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

# So does Python's reader of zip files; where a damaged one leads it before the first byte, the system complains.
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, *DAMAGE)

COUNTER = "num_batches_tracked"  # absent from files written before PyTorch 0.4.1; plays no part in inference
PREFIX = "module."  # left by DataParallel
WRAPPERS = ("state_dict", "model", "model_state_dict")  # names that training scripts give to the tensors

ONNX_START = b"\x08"  # the field ir_version, which every ONNX file begins with; neither zip nor pickle do


def load_weights(spec: BackboneSpec, path: Path, *, as_pretrained: bool = False) -> Backbone:
    """Build a backbone for grey boxes and fill it from a weight file, every tensor checked.

    Parameters
    ----------
    spec
        The backbone.
    path
        ``.pth``, ``.pt``, ``.safetensors`` or ``.onnx``, with three input channels as published, or one.
    as_pretrained
        Make the grey stem for boxes with the grey values of :attr:`BackboneSpec.scale`; else for boxes of whatever scale,
        as if all three colours had been shown the same. A file with one channel is taken as it is.

    Raises
    ------
    ModelError
        The file cannot be read or does not fit; the message names the first tensor that is wrong.
    """
    state = spec.convert(read_state(path, spec))
    state = {name: value for name, value in state.items() if not name.startswith(spec.discard)}
    channels = _input_channels(state, spec, path)
    check_state(state, _layout(spec, channels), path)
    if spec.stem is not None and channels == 3:
        state = grey_stem(state, spec.stem, spec.scale if as_pretrained else None)
    backbone = spec.build(1)
    expected = backbone.state_dict()
    backbone.load_state_dict({**expected, **state}, strict=True)
    return backbone


def read_state(path: Path, spec: BackboneSpec) -> State:
    """Read the tensors of a weight file by name, on the CPU, without running any code that the file may hold.

    A wrapper such as ``{"state_dict": ..., "optimizer": ...}`` is opened and the ``module.`` of DataParallel removed. The
    names in an ONNX file mean nothing; its tensors get those of ``spec``, in the order of the graph.

    Raises
    ------
    ModelError
        Missing, damaged, not a weight file, or a pickle that asks for more than tensors.
    """
    try:
        with open_file(path) as file:
            start = file.read(9)
        content = _read(path, start, spec)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error
    state = _unwrap(content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        raise ModelError(
            f"{path} holds no named tensors.", "Give a state_dict (.pth, .pt or .safetensors) or .onnx."
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{path}: {name} is a {type(value).__name__}; it must be a tensor.")
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def check_zip(path: Path) -> None:
    """Hold the parts of a zip file, such as torch writes, against their checksums, which torch itself does not look at.

    A file that is no zip file, such as the pickles of old, passes: its reader has to judge it.

    Raises
    ------
    ModelError
        A part is damaged.
    OSError
        The file cannot be read.
    """
    try:
        damaged = _damaged_part(path)
    except ZIP_DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ModelError(f"{path} is damaged ({error}).", "Get the file again.") from error
    if damaged is not None:
        raise ModelError(f"{path} is damaged: {damaged} does not fit its checksum.", "Get the file again.")


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


def fetch_weights(spec: BackboneSpec, track: Track = silent) -> Path:
    """Return the weight file of a backbone from the cache, downloading it on first use.

    The first time, its structure is checked, and its hash where one is published, and its sha256 is recorded beside it;
    every later time the sha256 must be the same. A file that fails is moved aside.

    Raises
    ------
    ModelError
        No address answers, or the file is not what it should be.
    """
    weights = _published(spec)
    path = cache_folder() / weights.filename
    if path.is_file() and (recorded := _recorded_hash(path)) is not None:
        return _held(path, recorded)
    with _alone(path):  # of two that come at once, the second takes what the first has brought
        if not path.is_file():
            return _fetch(spec, weights, path, track)
        recorded = _recorded_hash(path)
        return _first_use(spec, path, str(path)) if recorded is None else _held(path, recorded)


def _held(path: Path, recorded: str) -> Path:
    """Hold a cached file against the hash of its first use."""
    if sha256(path) != recorded:
        aside = _move_aside(path)
        raise ModelError(
            f"{path} is not the file that was first used here: its sha256 differs from the one in "
            f"{_record_path(path).name}. It was moved to {aside.name}.",
            f"Run again to download it anew; delete {_record_path(path)} only if you trust the new file.",
        )
    return path


def import_weights(spec: BackboneSpec, file: Path) -> Path:
    """Copy a weight file into the cache after checking it, so that it stands for the download; return the copy.

    The copy has the published name, whatever kind of file it is: readers go by content.

    Raises
    ------
    ModelError
        The file does not fit the backbone.
    """
    weights = _published(spec)
    load_weights(spec, file)
    path = cache_folder() / weights.filename
    with _alone(path):
        with replacing(path) as temporary:
            shutil.copyfile(file, temporary)
        _record(path, str(file))
    return path


def verify_weights(spec: BackboneSpec) -> Path:
    """Check hash and structure of the weight file of a backbone, packaged or cached, and return its path.

    Raises
    ------
    UsageError
        It is not in the cache.
    ModelError
        It is not what it was, or does not fit.
    """
    if not spec.packaged and cached_weights(spec) is None:
        raise UsageError(f"{spec.name} is not in the cache.", f"cryoclass backbones fetch {spec.name}")
    path = packaged_weights(spec) if spec.packaged else fetch_weights(spec)
    load_weights(spec, path)
    return path


# ------------------------------------------------------------------------------------------- reading files


def _read(path: Path, start: bytes, spec: BackboneSpec) -> Any:
    if start[8:] == b"{":
        return _read_safetensors(path)
    if start[:1] == ONNX_START:
        return read_onnx(path, [name for name in _layout(spec, 3) if not name.endswith(COUNTER)])
    return _read_torch(path)


def _damaged_part(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as parts:
        return parts.testzip()


def _unwrap(content: Any) -> Any:
    if isinstance(content, Mapping):
        for name in WRAPPERS:
            if isinstance(content.get(name), Mapping):
                return content[name]
    return content


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is a damaged safetensors file: {error}.", "Get the file again.") from error


def _read_torch(path: Path) -> Any:
    check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old formats and odd pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        reason = re.split(r"\n|\. ", str(error).strip())[0]  # torch goes on with advice to load it unsafely
        raise ModelError(
            f"{path} is damaged, or no weight file, or asks to run code, which is refused ({reason}).",
            "Give an unbroken state_dict (.pth, .pt or .safetensors) of tensors only.",
        ) from error


def _layout(spec: BackboneSpec, channels: int) -> State:
    with torch.device("meta"):
        return spec.build(channels).state_dict()


def _input_channels(state: State, spec: BackboneSpec, path: Path) -> int:
    if spec.stem is None:
        return 1
    name = spec.stem.weight
    if name not in state:
        raise ModelError(
            f"{path} lacks the tensor {name}.", f"It does not belong to the backbone {spec.name}."
        )
    shape = tuple(state[name].shape)
    if len(shape) != 5 or shape[1] not in (1, 3):
        raise ModelError(f"{path}: the tensor {name} has the shape {shape}; it must take 1 or 3 channels.")
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


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time bring a file into the cache; the others wait.

    The system gives a lock back when its process ends, however it ends.
    """
    name = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(name)
    except OSError as error:
        raise output_error(error, path) from error
    with lock:
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


def _locked(name: Path) -> TextIO:
    """Return a file that this process alone has locked, and that still has its name: whoever ends a lock removes its file."""
    while True:
        lock = name.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # a network disk without locks: the file still appears whole, at worst twice
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return lock
        with suppress(FileNotFoundError):
            if os.path.samestat(name.stat(), os.fstat(lock.fileno())):
                return lock
        lock.close()


def _published(spec: BackboneSpec) -> Weights:
    if spec.weights is None:
        raise ModelError(f"{spec.name} has no published weights.", "Use --weights FILE, or --init random.")
    return spec.weights


def _fetch(spec: BackboneSpec, weights: Weights, path: Path, track: Track) -> Path:
    """Try each address until one gives a file that is right."""
    tried = []
    for address in weights.addresses:
        try:
            _take(address, path, track)
            return _first_use(spec, path, address.url)
        except ModelError as error:
            tried.append(f"{address.url} ({error})")
    raise ModelError(_why_not_fetched(spec, weights, tried), _by_hand(spec, weights, path))


def _take(address: Address, path: Path, track: Track) -> None:
    """Bring what lies at an address to ``path``, its hash checked."""
    part = download(address.url, path, track)
    try:
        check_hash(part, address.hash)
    except ModelError as error:
        aside = part.replace(_aside(path))
        raise ModelError(f"{error} It was moved to {aside.name}.") from error
    part.replace(path)


def _why_not_fetched(spec: BackboneSpec, weights: Weights, tried: list[str]) -> str:
    size = f"about {weights.size / 1e6:.0f} MB"
    if not tried:
        return f"The weights of {spec.name} ({size}) lie at no address that a program can use."
    return f"The weights of {spec.name} cannot be downloaded ({size}). Tried: {'; '.join(tried)}."


def _by_hand(spec: BackboneSpec, weights: Weights, path: Path) -> str:
    place = f" from {weights.by_hand}" if weights.by_hand else " on a computer with network"
    return (
        f"Get {weights.filename}{place}, then use --weights FILE, or "
        f"cryoclass backbones import {spec.name} FILE to keep it in {path.parent}. "
        "Or use --backbone res32-species, whose weights come with cryoclass."
    )


def _first_use(spec: BackboneSpec, path: Path, source: str) -> Path:
    try:
        load_weights(spec, path)
    except ModelError as error:
        aside = _move_aside(path)
        raise ModelError(f"{error} It was moved to {aside.name}.", error.hint) from error
    _record(path, source)
    return path


def _move_aside(path: Path) -> Path:
    return path.replace(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.refused")


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path, source: str) -> None:
    content = {"sha256": sha256(path), "bytes": path.stat().st_size, "source": source}
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
