"""Weights out of an ONNX file: OpenCV published a 3D ResNet as such a copy."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from cryoclass.backbones.spec import State
from cryoclass.errors import ModelError

LAYERS = ("Conv", "BatchNormalization")  # heads, Gemm, are left out


def read_onnx(path: Path, names: Sequence[str]) -> State:
    """Return the weights of convolutions and batch normalisations in the order of the graph, under other names.

    Exporters number or rename tensors, but write the nodes in the order of execution; within a node the order is fixed:
    weight and bias of a convolution; weight, bias, mean and variance of a batch normalisation.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    names
        Of the tensors in the order of execution.

    Raises
    ------
    ModelError
        Damaged, or another number of tensors; whether shapes fit is for the caller to check.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        order = [
            name for node in graph.node if node.op_type in LAYERS for name in node.input if name in tensors
        ]
        values = [torch.from_numpy(numpy_helper.to_array(tensors[name]).copy()) for name in order]
    except (DecodeError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is a damaged ONNX file, or none.", "Get the file again.") from error
    if len(values) != len(names):
        raise ModelError(
            f"{path} holds {len(values)} tensors of convolutions and batch normalisations; this backbone has {len(names)}.",
            "It may belong to another backbone, or be optimised: batch normalisation must not be folded away.",
        )
    return dict(zip(names, values, strict=True))
