"""``cryoclass export``: the model as one checked ONNX file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from cryoclass.cli import console
from cryoclass.cli.options import Overwrite
from cryoclass.errors import UsageError


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder written by finetune.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path(
        "model.onnx"
    ),
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option("--precision", help="Number type of the network inside.")
    ] = "fp32",
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one self-contained ONNX file.

    Takes raw voxels of any box; the preparation is inside. Before the file is kept, onnxruntime and torch must agree
    on it: the same class for every box, and probabilities within 1e-4 in fp32.

    Example: cryoclass export Finetune/ -o model.onnx
    """
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists.", "Choose another --out, or add --overwrite.")
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out} must end in .onnx.")
    from cryoclass.export.onnx_file import export_onnx

    parity = export_onnx(model, out, precision)
    console.rows(
        "exported",
        [
            ("file", f"{out}, {out.stat().st_size / 1e6:.1f} MB, {precision}"),
            ("agrees with torch", "the same class for every box" if parity.same_class else "not every class"),
            (
                "largest difference",
                f"{parity.max_probability_difference:.1e} in a probability; allowed {parity.tolerance:g}",
            ),
            (
                "compared at",
                f"batches {_list(parity.batches)}; boxes {_list(box[0] for box in parity.boxes)}",
            ),
        ],
    )
    console.next_command(f"cryoclass predict --onnx {out} particles.star")


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in dict.fromkeys(numbers))
