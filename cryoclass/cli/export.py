"""``cryoclass export``: the model as one checked ONNX file."""

from collections.abc import Iterable

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.following import all_tasks, with_images
from cryoclass.cli.options import with_request
from cryoclass.jobs.export import ExportRequest


@with_request
def export(request: ExportRequest) -> None:
    """Write a model as one self-contained ONNX file.

    Takes raw voxels of any box; the preparation is inside. Before the file is kept, onnxruntime and torch must agree
    on it: the same class for every box, and probabilities within 1e-4 in fp32.

    Example: cryoclass export Finetune/ -o model.onnx
    """
    result = jobs.export(request, console.Heard())
    file, parity = result.file, result.parity
    where = "a probability" if len(result.tasks) < 2 else "a probability or a voxel"
    difference = f"{parity.max_probability_difference:.1e} in {where}; allowed {parity.tolerance:g}"
    console.rows(
        "exported",
        [
            ("file", f"{file}, {file.stat().st_size / 1e6:.1f} MB, {request.precision}"),
            ("agrees with torch", "the same class for every box" if parity.same_class else "not every class"),
            ("largest difference", difference),
            (
                "compared at",
                f"batches {_list(parity.batches)}; boxes {_list(box[0] for box in parity.boxes)}",
            ),
        ],
    )
    console.next_command(
        ("cryoclass", "predict", with_images(result.tables), "--onnx", file, *all_tasks(result.tasks))
    )


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in dict.fromkeys(numbers))
