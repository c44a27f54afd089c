"""The two ways to run a classifier: torch with a model folder, onnxruntime with an exported file."""

import contextlib
import copy
import ctypes
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from cryoclass.backbones.spec import Backbone
from cryoclass.card import CARD_KEY, EMBEDDING, INPUT, PARTICLES, ModelCard, check_said
from cryoclass.classifier import WholeModel, asked_of, load_model
from cryoclass.errors import ModelError, UsageError
from cryoclass.files import digest
from cryoclass.machine import check_name, choose_device, computing_in, number_type, short_of_memory
from cryoclass.preparation import Preparer
from cryoclass.seal import read_sealed
from cryoclass.settings import ModelChoice, Precision, Preparation
from cryoclass.sources import Source
from cryoclass.tasks import Task

Voxels = NDArray[np.float32]
Arrays = dict[str, Voxels]  # by name, float32, as on the card

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
FATAL = (
    4  # onnxruntime's log severity: it warns on every computer without a GPU, and what matters is raised here
)

# onnxruntime's exceptions have no base of their own.
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
)

# What onnxruntime's exceptions say where memory is lacking; nothing else tells them apart.
_NO_MEMORY = re.compile(
    r"bad.?alloc|out of memory|failed to allocate memory|available memory of \d+ is smaller|cudaErrorMemoryAllocation"
    r"|CUDA failure 2\b|std::length_error",
    re.IGNORECASE,
)
FLOATS, RANK = "tensor(float)", 4
_AGAIN = "Run cryoclass export again."

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Turns raw voxels into predictions.

    Attributes
    ----------
    card
        What is known of the model.
    description
        What runs where, for people.
    """

    card: ModelCard
    description: str

    def run(self, voxels: Voxels) -> Arrays:
        """Return the named outputs of ``(N, D, H, W)`` raw float32 voxels, float32, as the card lists them.

        Raises
        ------
        ModelError
            The voxels do not fit into memory, or the outputs do not fit the card.
        """
        ...

    def identity(self) -> str:
        """Return a hash of the weights and of what they are shown."""
        ...

    def asked(self, tasks: Sequence[Task]) -> "Engine":
        """Return what runs the same model, asked for some of its tasks only."""
        ...


class TorchEngine:
    """Runs a whole model with torch.

    Parameters
    ----------
    whole
        The model; moved to ``device``.
    device
        From :func:`cryoclass.machine.choose_device`.
    precision
        ``fp32``, ``bf16`` (convolutions in bfloat16; the forward pass is right on CPU too), or ``auto``: bfloat16 on
        a GPU that has it, else float32.
    """

    def __init__(self, whole: WholeModel, device: torch.device, precision: Precision = "auto") -> None:
        self.card = whole.card
        self.device = device
        self.precision = number_type(device, precision)
        self.whole = whole.to(device).eval()
        self.description = f"torch {torch.__version__} on {device}, {self.precision}"

    def run(self, voxels: Voxels) -> Arrays:
        """Return the named outputs of ``(N, D, H, W)`` raw float32 voxels.

        Raises
        ------
        ModelError
            The batch does not fit into memory.
        """
        with (
            torch.inference_mode(),
            computing_in(self.device, self.precision),
            memory_said(voxels, self.device),
        ):
            raw = torch.from_numpy(np.require(voxels, np.float32, "W"))  # a memory map may be read-only
            outputs = self.whole(raw.to(self.device))
            said = {name: value.float().cpu().numpy() for name, value in outputs.items()}
        return _checked(said, self.card, self.description)

    def identity(self) -> str:
        """Return a hash of the weights and of what they are shown."""
        return digest(self.card.weights_sha256, self.card.preparation)

    def asked(self, tasks: Sequence[Task]) -> "TorchEngine":
        """Return what runs the same model, asked for some of its tasks only: it computes nothing else."""
        part = copy.copy(self)
        part.whole = self.whole.asked(tasks).to(self.device).eval()
        part.card = part.whole.card
        return part


class BackboneEngine:
    """Runs a backbone without head: the embedding is its only output, and there are no classes.

    Parameters
    ----------
    name
        A key of the registry, for the card.
    backbone, preparation
        The network, and what it is shown; no boxes have been learnt from, so the card's are those of the source.
    source
        Whose boxes will be shown.
    device
        From :func:`cryoclass.machine.choose_device`; on a GPU, convolutions run in bfloat16.
    """

    def __init__(
        self, name: str, backbone: Backbone, preparation: Preparation, source: Source, device: torch.device
    ) -> None:
        self.card = ModelCard(
            backbone=name,
            classes=(),
            angpix=source.angpix,
            box=(source.box,) * 3,
            contrast="unknown",
            preparation=preparation,
            outputs={EMBEDDING: (PARTICLES, backbone.width)},
            tasks=(),
            **dict(backbone.facts),
        )
        self.device = device
        self.precision = number_type(device)
        self.network = torch.nn.Sequential(Preparer(preparation), backbone).to(device).eval()
        self.description = f"torch {torch.__version__} on {device}, {self.precision}"

    def run(self, voxels: Voxels) -> Arrays:
        """Embed ``(N, D, H, W)`` raw float32 voxels; errors as :meth:`TorchEngine.run`."""
        with (
            torch.inference_mode(),
            computing_in(self.device, self.precision),
            memory_said(voxels, self.device),
        ):
            said = {EMBEDDING: self.network(torch.from_numpy(voxels).to(self.device)).float().cpu().numpy()}
        return _checked(said, self.card, self.description)

    def asked(self, tasks: Sequence[Task]) -> "BackboneEngine":  # noqa: ARG002 - it has no task
        """Return itself."""
        return self

    def identity(self) -> str:
        """Return a hash of the weights and of what they are shown."""
        state = self.network[1].state_dict()
        tensors = (value.float().cpu().numpy().tobytes() for value in state.values())
        return digest(self.card.backbone, self.card.preparation, *tensors)


class OnnxEngine:
    """Runs a file written by ``cryoclass export`` with onnxruntime.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    device
        ``auto`` (CUDA where it works, else CPU), ``cpu``, ``cuda`` or ``cuda:1``, or a torch device.

    Raises
    ------
    UsageError
        No such name of a device.
    ModelError
        The file is missing, damaged, altered, or not made by cryoclass; or CUDA was asked for and onnxruntime cannot use it
        (left alone, it would go on with the CPU).
    """

    def __init__(self, path: Path, device: str | torch.device = "auto") -> None:
        self.path = path
        wish = str(device)
        check_name(wish)
        cuda = wish.startswith("cuda") or (wish == "auto" and torch.cuda.is_available())
        if path.is_dir():
            raise ModelError(
                f"{path} is a folder, no ONNX file.", f"Use --model {path}, or the file that export wrote."
            )
        content, self._seal = read_sealed(path)
        self.session = _open_session(path, content, _providers(wish, cuda))
        self.card = _card(self.session, path)
        lost = cuda and CUDA not in self.session.get_providers()
        reason = (_why_not_loaded() or _no_device()) if lost else ""
        if lost and wish != "auto":
            raise ModelError(
                f"--device is {wish}, but onnxruntime cannot use CUDA and would go on with the CPU: {reason}.",
                "Install onnxruntime-gpu[cuda,cudnn] for your CUDA version, or use --device cpu.",
            )
        if lost:
            _log.warning("onnxruntime cannot use the CUDA GPU and goes on with the CPU: %s", reason)
        place = f"cpu ({reason})" if lost else "cuda" if cuda else "cpu"
        self.description = f"onnxruntime {onnxruntime.__version__} on {place}"

    def run(self, voxels: Voxels) -> Arrays:
        """Return the named outputs of ``(N, D, H, W)`` raw float32 voxels.

        Raises
        ------
        ModelError
            onnxruntime gives up, for lack of memory or for another reason; the message says which.
        """
        names = list(self.card.outputs)
        try:
            said = dict(zip(names, self.session.run(names, {INPUT: voxels}), strict=True))
        except (*ORT_ERRORS, MemoryError) as error:
            raise _not_computed(voxels, error) from error
        return _checked(said, self.card, str(self.path))

    def identity(self) -> str:
        """Return a hash of all that decides what the file computes."""
        return digest(self._seal)

    def asked(self, tasks: Sequence[Task]) -> "OnnxEngine":
        """Return what runs the same file, asked for some of its tasks only: onnxruntime computes nothing else."""
        part = copy.copy(self)
        part.card = asked_of(self.card, tasks)
        return part


def load_engine(model: Path | None, onnx: Path | None, device: str, precision: Precision = "auto") -> Engine:
    """Return the engine for exactly one of a model folder and an ONNX file.

    Raises
    ------
    UsageError
        None or both are given, or wishes contradict each other.
    ModelError
        The model cannot be used.
    """
    ModelChoice(model=model, onnx=onnx).check_one()
    if model is None:
        assert onnx is not None  # one of them is there  # noqa: S101
        if precision == "bf16":
            raise UsageError("--precision bf16 does not go with --onnx, whose precision is chosen by export.")
        return OnnxEngine(onnx, device)
    place = choose_device(device)
    classifier, card = load_model(model)
    return TorchEngine(WholeModel(classifier, card), place, precision)


def _checked(said: Arrays, card: ModelCard, where: str) -> Arrays:
    check_said({name: value.shape for name, value in said.items()}, card, where)
    return said


def _out_of_memory(voxels: Voxels, place: str) -> ModelError:
    return ModelError(
        f"{_batch(voxels)} could not be computed on {place}: it does not fit into memory.",
        "Use a smaller --batch-size.",
    )


@contextlib.contextmanager
def memory_said(voxels: Voxels, device: torch.device) -> Iterator[None]:
    """Turn torch's ways of saying that memory is lacking into words."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if short_of_memory(error):
            raise _out_of_memory(voxels, str(device)) from error
        raise


def _not_computed(voxels: Voxels, error: Exception) -> ModelError:
    """Say why onnxruntime gave up; only where memory was lacking does a smaller batch help."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return _out_of_memory(voxels, "onnxruntime")
    return ModelError(
        f"{_batch(voxels)} could not be computed by onnxruntime: {_first_line(error)}.",
        "Its memory is not the reason. Use predict --model, or boxes of the size that the model has learnt from.",
    )


def _batch(voxels: Voxels) -> str:
    return f"A batch of {len(voxels)} boxes of {'x'.join(map(str, voxels.shape[1:]))} voxels"


# ----------------------------------------------------------------------------------------- onnxruntime


def _providers(wish: str, cuda: bool) -> list[Any]:
    if not cuda:
        return [CPU]
    _, _, index = wish.partition(":")
    return [(CUDA, {"device_id": int(index or 0)}), CPU]


def _open_session(path: Path, content: bytes, providers: list[Any]) -> Any:
    """Open what was read and checked, not the file again: it may change meanwhile."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        with _quiet():
            if len(providers) > 1:
                _preload()
            return onnxruntime.InferenceSession(content, options, providers=providers)
    except ORT_ERRORS as error:
        raise ModelError(
            f"{path} is not an ONNX file, or is damaged: {_first_line(error)}.",
            "Copy it again, or run cryoclass export again.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Any:
    """Swallow what onnxruntime prints and warns while it looks for a GPU."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _card(session: Any, path: Path) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError(
            f"{path} is an ONNX file, but not made by cryoclass: it carries no model card.",
            "Use a file written by cryoclass export.",
        )
    card = ModelCard.from_json(text, f"the model card in {path}")
    _check_input(session, path)
    check_said({output.name: tuple(output.shape) for output in session.get_outputs()}, card, str(path))
    strange = [output for output in session.get_outputs() if output.type != FLOATS]
    if strange:
        raise ModelError(f"{path} gives {strange[0].name} as {strange[0].type}; it must be {FLOATS}.", _AGAIN)
    return card


def _check_input(session: Any, path: Path) -> None:
    """Raise a ModelError where a graph does not take boxes and nothing else, any number of any size."""
    said = [(value.name, value.type, len(value.shape)) for value in session.get_inputs()]
    fixed = [side for value in session.get_inputs() for side in value.shape if isinstance(side, int)]
    if said != [(INPUT, FLOATS, RANK)] or fixed:
        inputs = ", ".join(
            f"{value.name} {value.type} {'x'.join(map(str, value.shape))}" for value in session.get_inputs()
        )
        raise ModelError(
            f"{path} takes {inputs or 'no input'}; it must take {INPUT} {FLOATS} NxDxHxW, boxes of any number and size.",
            _AGAIN,
        )


def why_onnxruntime_has_no_cuda() -> str:
    """Return why onnxruntime cannot use a CUDA GPU here; empty where nothing stands against it."""
    with _quiet():
        _preload()
    return _why_not_loaded() or ("" if torch.cuda.is_available() else _no_device())


def _preload() -> None:
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed


def _why_not_loaded() -> str:
    """Return why its CUDA library does not load: it tells only its own log, so the library is loaded again here."""
    if CUDA not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA; onnxruntime-gpu has it"
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return _first_line(error)
    return ""


def _no_device() -> str:
    return f"its libraries load, but no CUDA device answers (torch sees {torch.cuda.device_count()})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
