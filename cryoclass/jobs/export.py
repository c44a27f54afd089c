"""A model as one checked ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoclass.claims import claim_file
from cryoclass.errors import UsageError
from cryoclass.files import stamp
from cryoclass.inputs import is_no_file
from cryoclass.progress import TO_LOG, Listener
from cryoclass.settings import Settings, setting

if TYPE_CHECKING:
    from cryoclass.exporting.parity import Parity


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Settings):
    """Which model to write, and where."""

    panel = "Options"

    model: Path = setting(argument=True, unit="model", help="Model folder written by finetune.")
    out: Path = setting(Path("model.onnx"), flags=("--out", "-o"), unit="file", help="The file to write.")
    precision: Literal["fp32", "fp16"] = setting("fp32", help="Number type of the network inside.")
    overwrite: bool = setting(False, flags=("--overwrite",), help="Replace the file.")


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The file that was written, how closely it follows torch, the tables that the model learnt from, and what it does."""

    file: Path
    parity: "Parity"
    tables: tuple[Path, ...]
    tasks: tuple[str, ...]


def export(request: ExportRequest, listener: Listener = TO_LOG) -> ExportResult:
    """Write a model as one self-contained ONNX file, checked against torch.

    Raises
    ------
    CryoclassError
        Something that the user can mend; the message says what, and the way out.
    """
    if request.out.exists() and not request.overwrite:
        raise UsageError(f"{request.out} exists.", "Choose another --out, or add --overwrite.")
    if request.out.suffix != ".onnx":
        raise UsageError(f"--out {request.out} must end in .onnx.")
    if reason := is_no_file(request.out):
        raise UsageError(f"--out {request.out} cannot be replaced: {reason}.", "Choose another --out.")
    from cryoclass.checks.disk import check_disk
    from cryoclass.checks.findings import enforce
    from cryoclass.classifier import load_card
    from cryoclass.exporting.onnx_file import export_onnx

    listener.note(f"exporting {request.model}, and comparing the graph with torch")
    with claim_file(request.out):
        enforce(check_disk(request.out.parent, _bytes(request)), listener)
        parity = export_onnx(request.model, request.out, request.precision)
    card = load_card(request.model)
    said = card.training.get("particles", ())  # for people: nobody has checked it
    tables = tuple(Path(name) for name in said if isinstance(name, str)) if isinstance(said, list) else ()
    return ExportResult(file=request.out, parity=parity, tables=tables, tasks=card.tasks)


def _bytes(request: ExportRequest) -> int:
    """Return the bytes that the file takes at least; 0 where the model folder has no weights, as will be said later."""
    from cryoclass.card import MODEL_FOLDER

    size, _ = stamp(request.model / MODEL_FOLDER.weights)
    return size // 2 if request.precision == "fp16" else size
