"""Whether the exported graph says the same as torch."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from cryoclass.card import INPUT, ModelCard
from cryoclass.classifier import Classifier, WholeModel
from cryoclass.errors import ModelError
from cryoclass.exporting.graph import ExportPrecision
from cryoclass.settings import Size3
from cryoclass.tasks import task_named

Voxels = NDArray[np.float32]

BATCHES = (1, 3, 32)
FEWER_BATCHES = (1, 3)
CHUNK = 4  # boxes that torch computes at once; the answer for a box does not depend on its batch

# Largest difference of a probability, or of a voxel as a share of the highest one. Half precision keeps 11 bits, so that a 34-layer network is off by about 1e-3.
TOLERANCE: dict[ExportPrecision, float] = {"fp32": 1e-4, "fp16": 1e-2}

# A 3D ResNet-34 at 32x128x128 takes 7.3e12, measured 77 s on two AVX-512 cores with 5 GB of memory.
MOST_WORK = 10e12


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How closely onnxruntime follows torch.

    Parameters
    ----------
    max_probability_difference
        Largest absolute difference of a probability, or of a voxel as a share of the highest one, over everything compared.
    same_class
        Whether the most probable class was the same for each box. Boxes whose two best classes are closer than twice
        the tolerance count as the same.
    tolerance
        Limit that was held.
    batches
        Batch sizes that were run.
    boxes
        Box sizes that were run.
    """

    max_probability_difference: float
    same_class: bool
    tolerance: float
    batches: tuple[int, ...]
    boxes: tuple[Size3, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return dataclasses.asdict(self)


def check_parity(
    whole: WholeModel, graph: bytes, card: ModelCard, precision: ExportPrecision, boxes: Voxels | None = None
) -> Parity:
    """Compare a graph in onnxruntime, on the CPU, with the float32 model in torch.

    Generated boxes of two sizes go through at batches of 1, 3 and 32. Batch 32 is left out where all that would take
    more than 1e13 floating-point operations, some 100 s on two cores.

    Parameters
    ----------
    whole
        The float32 model, on the CPU, in evaluation mode.
    graph
        The serialised ONNX model.
    card
        Its card; the first box size is the card's.
    precision
        What the graph was made with; chooses the tolerance.
    boxes
        ``(N, D, H, W)`` real raw boxes to compare as well; the first 32 are used.

    Raises
    ------
    ModelError
        A probability differs by more than 1e-4 (1e-2 for fp16), or a class differs.
    """
    sizes = (card.box, _another(card))
    batches = _batches(card)
    samples = [generate_boxes(max(batches), size) for size in sizes]
    if boxes is not None:
        samples.append(np.ascontiguousarray(boxes[: max(BATCHES)], dtype=np.float32))
    parity = _compare(whole, graph, samples, batches, TOLERANCE[precision])
    # Written so that NaN fails too.
    if not parity.max_probability_difference <= parity.tolerance or not parity.same_class:
        raise ModelError(
            f"The exported graph does not agree with torch: its outputs differ by up to "
            f"{parity.max_probability_difference:.2g} (limit {parity.tolerance:g}), "
            f"classes are {'the same' if parity.same_class else 'not the same'}.",
            "Use --precision fp32." if precision == "fp16" else "Nothing was written; please report this.",
        )
    return parity


def generate_boxes(count: int, size: Size3) -> Voxels:
    """Return ``(count, *size)`` boxes of noise with a bright ball of another radius in each; always the same ones."""
    random = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, side, dtype=np.float32) for side in size]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    radius = np.linspace(0.2, 0.8, count, dtype=np.float32)[:, None, None, None]
    noise = random.standard_normal((count, *size), dtype=np.float32)
    ball: Voxels = 3 * np.exp(-(z**2 + y**2 + x**2) / radius**2)
    return noise + ball


def _another(card: ModelCard) -> Size3:
    """Return a box that is unlike the card's and unlike itself along each axis; never deeper where slices are added."""
    depth, height, width = card.box
    if card.preparation.depth == "repeat-last":
        return (max(depth - 2, 1), max(height - 4, 1), max(width - 6, 1))
    return (depth + 2, height + 4, width + 6)


def _batches(card: ModelCard) -> tuple[int, ...]:
    boxes = 2 * (
        max(BATCHES) + sum(BATCHES)
    )  # two sizes, each through torch once and through onnxruntime per batch
    return BATCHES if boxes * _work(card) <= MOST_WORK else FEWER_BATCHES


def _work(card: ModelCard) -> float:
    """Count the floating-point operations for one box."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        tasks = [task_named(name) for name in card.tasks]
        classifier = Classifier(card.backbone, len(card.classes), tasks).eval()
        WholeModel(classifier, card.replace(outputs=classifier.outputs))(torch.empty(1, *card.box))
    return float(counter.get_total_flops())


def _compare(
    whole: WholeModel, graph: bytes, samples: Sequence[Voxels], batches: tuple[int, ...], tolerance: float
) -> Parity:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns on every computer without a GPU
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names, tasks = list(whole.card.outputs), whole.classifier.tasks
    differences, same = [], []
    for boxes in samples:
        reference = _reference(whole, boxes)
        for batch in [size for size in batches if size <= len(boxes)] or [len(boxes)]:
            found = dict(zip(names, session.run(names, {INPUT: boxes[:batch]}), strict=True))
            expected = {name: value[:batch] for name, value in reference.items()}
            differences += [task.difference(found, expected) for task in tasks]
            same += [task.same(found, expected, 2 * tolerance) for task in tasks]
    return Parity(
        max_probability_difference=max(differences, key=lambda value: (np.isnan(value), value)),
        same_class=all(same),
        tolerance=tolerance,
        batches=batches,
        boxes=tuple(_size(boxes) for boxes in samples),
    )


def _reference(whole: WholeModel, boxes: Voxels) -> dict[str, Voxels]:
    with torch.inference_mode():
        chunks = [whole(chunk) for chunk in torch.from_numpy(boxes).split(CHUNK)]
    return {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in whole.card.outputs}


def _size(boxes: Voxels) -> Size3:
    _, depth, height, width = boxes.shape
    return (depth, height, width)
