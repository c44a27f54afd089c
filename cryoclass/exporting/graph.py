"""The ONNX graph of a whole model: raw voxels in, named outputs out."""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import onnx
import torch

from cryoclass.card import INPUT
from cryoclass.classifier import WholeModel
from cryoclass.preparation import CYCLES

ExportPrecision = Literal["fp32", "fp16"]

AXES = ("N", "D", "H", "W")
EXAMPLE = (2, 10, 12, 14)  # an axis of length 1, or two equal ones, would be taken as a rule
DEEP = 36  # slices of the example where the network sees every slice: its deepest map must still have more than one


def build_graph(whole: WholeModel, precision: ExportPrecision) -> onnx.ModelProto:
    """Turn a whole model into a checked ONNX graph that takes any number of boxes of any size.

    Parameters
    ----------
    whole
        The model, on the CPU, in evaluation mode; left as it is.
    precision
        ``fp32``, or ``fp16``: the classifier in half precision, while input, outputs, preparation and softmax stay in
        float32.

    Returns
    -------
    onnx.ModelProto
        Input ``subtomogram`` float32 ``[N, D, H, W]``; outputs as on the card. The same model
        gives the same bytes.
    """
    if precision == "fp16":
        whole = WholeModel(copy.deepcopy(whole.classifier).half(), whole.card).eval()
    graph = _trace(whole)
    _forget_sources(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _trace(whole: WholeModel) -> onnx.ModelProto:
    axes: dict[int, Any] = {axis: torch.export.Dim(name) for axis, name in enumerate(AXES)}
    example = list(EXAMPLE)
    if whole.preparer.settings.depth == "keep":
        beam = CYCLES[whole.preparer.settings.beam_axis][0]
        # The tracer finds that broadcasting would differ for maps of one slice, and would refuse a named axis. Nothing is
        # broadcast along the beam, and the parity check runs boxes of the model's own depth.
        axes[beam], example[beam] = torch.export.Dim.AUTO, DEEP
    with _quiet():
        program = torch.onnx.export(
            whole,
            (torch.zeros(example),),
            dynamo=True,
            external_data=False,  # one file that nobody can tear apart
            input_names=[INPUT],
            output_names=list(whole.card.outputs),
            dynamic_shapes=(axes,),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None is for the older exporter
    graph: onnx.ModelProto = program.model_proto
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow the exporter's progress lines and deprecation warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _forget_sources(model: onnx.ModelProto) -> None:
    """Remove the stack traces that the exporter attaches: they name folders of this computer."""
    graph = model.graph
    for item in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
