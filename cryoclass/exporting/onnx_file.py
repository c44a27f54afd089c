"""From a model folder to one ONNX file."""

from pathlib import Path

from cryoclass.backbones.registry import spec
from cryoclass.card import ModelCard
from cryoclass.classifier import WholeModel, load_model
from cryoclass.errors import UsageError
from cryoclass.exporting.graph import ExportPrecision, build_graph
from cryoclass.exporting.metadata import write_metadata
from cryoclass.exporting.parity import Parity, Voxels, check_parity
from cryoclass.files import replacing
from cryoclass.seal import sealed


def export_onnx(
    folder: Path, out: Path, precision: ExportPrecision = "fp32", boxes: Voxels | None = None
) -> Parity:
    """Write a model folder as one self-contained ONNX file, after checking that it says the same as torch.

    Parameters
    ----------
    folder
        What ``cryoclass finetune`` wrote.
    out
        The ``.onnx`` file.
    precision
        ``fp32``, or ``fp16`` for half the size.
    boxes
        ``(N, D, H, W)`` real raw boxes to check with, beside generated ones.

    Raises
    ------
    UsageError
        ONNX is not offered for this backbone, or not with its depth policy.
    ModelError
        The model folder is damaged, or the graph does not agree with torch; nothing is written then.
    OutputError
        ``out`` cannot be written.
    """
    classifier, card = load_model(folder)
    _check_offered(card)
    whole = WholeModel(classifier, card).eval()
    graph = build_graph(whole, precision)
    parity = check_parity(whole, graph.SerializeToString(), card, precision, boxes)
    write_metadata(graph, card, precision, parity)
    with replacing(out) as temporary:
        temporary.write_bytes(sealed(graph.SerializeToString(deterministic=True)))
    return parity


def _check_offered(card: ModelCard) -> None:
    entry = spec(card.backbone)
    reason = entry.onnx
    if entry.onnx_fixed_depth and card.preparation.depth == "keep":
        reason = "with --depth keep its graph would hold one depth only"
    if reason is not True:
        raise UsageError(
            f"{card.backbone} cannot be exported to ONNX: {reason}.",
            "Use predict --model, or fine-tune with --depth resize or another backbone.",
        )
