"""``cryoclass demo``: the whole way on simulated tomograms, and how well it went."""

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from cryoclass.claims import claim
from cryoclass.cli import console
from cryoclass.cli.following import YOURS
from cryoclass.errors import CryoclassError
from cryoclass.records import Writes

SPECIES = 6
WRITES = Writes(
    command="demo",
    last="model.onnx",
    folders=("Simulated", "Extract", "LabelFree", "Finetune", "Predict", "PredictOnnx", "Embed"),
)
STEPS = (
    "simulate -o {out}/Simulated --species 6 --per-species 120 --tomograms 6 --snr 0.5 --labelled 0.5",
    "extract {out}/Simulated/coordinates.star --tomograms {out}/Simulated/tomograms --box 32 -o {out}/Extract",
    "embed {out}/Extract/particles.star --backbone res32-species --clusters 6 -o {out}/LabelFree",
    "finetune {out}/Extract/particles.star --backbone res32-species --epochs 5 -o {out}/Finetune",
    "export {out}/Finetune -o {out}/model.onnx",
    "predict {out}/Extract/particles.star --model {out}/Finetune -o {out}/Predict",
    "predict {out}/Extract/particles.star --onnx {out}/model.onnx -o {out}/PredictOnnx --split-classes",
    "embed {out}/Extract/particles.star --model {out}/Finetune --clusters 6 -o {out}/Embed",
)


def demo(
    outdir: Annotated[
        Path, typer.Option("--outdir", "-o", metavar="DIR", help="Folder for everything.")
    ] = Path("Demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
) -> None:
    """Run the main job on simulated tomograms: some minutes on a laptop, nothing to download.

    Simulates tomograms of six species, extracts, groups the particles with no label at all, fine-tunes the network that
    comes with cryoclass on the labelled half, predicts with torch and with ONNX, and compares with the truth.
    """
    with claim(outdir, WRITES, overwrite=overwrite) as place:
        place.begin()
        for step in STEPS:
            _type([*(word.format(out=outdir) for word in step.split()), "--overwrite"])
        _say_result(outdir)


def _type(argv: list[str]) -> None:
    from cryoclass.cli import main

    command = console.for_shell(["cryoclass", *argv])
    console.say(f"\n$ {command}")
    if main(argv):
        raise CryoclassError(f"the demo stopped in: {command}")


def _say_result(outdir: Path) -> None:
    """Compare with the truth, on the particles whose label nobody was told."""
    from cryoclass.particles import read_particles

    truth = read_particles(outdir / "Simulated" / "truth.star")
    species = truth.cells("cryoclassLabel")
    by_torch = read_particles(outdir / "Predict" / "particles.star")
    by_onnx = read_particles(outdir / "PredictOnnx" / "particles.star")
    labels = by_torch.labels("cryoclassLabel")
    found = by_torch.cells("cryoclassClassName")
    rest = [row for row, label in enumerate(labels) if label is None]
    right = sum(found[row] == species[row] for row in rest)
    same = by_onnx.cells("cryoclassClassName") == found
    console.say("")
    console.rows(
        "the demo in short",
        [
            ("chance", f"{1 / SPECIES:.3f}"),
            (
                "no label",
                f"{_label_free(outdir, species):.3f} of {len(species)} particles right, one cluster a species",
            ),
            ("fine-tuned", f"{right / len(rest):.3f} of {len(rest)} particles never trained on right"),
            ("labels used", f"{len(labels) - len(rest)}, a part of them for validation and test"),
            ("torch and ONNX", "the same class for every particle" if same else "DIFFERENT classes"),
            ("RELION", _relion_says(outdir / "PredictOnnx" / "particles.star")),
            ("open", outdir / "Extract" / "extract.html"),
            ("open", outdir / "Finetune" / "report.html"),
            ("open", outdir / "PredictOnnx" / "report.html"),
            ("open", outdir / "LabelFree" / "embedding.html"),
            ("open", outdir / "Embed" / "embedding.html"),
        ],
    )
    for command in (
        f"extract {YOURS} --tomograms YOUR/TOMOGRAMS --box 32 --angpix 10 -o Extract",
        "embed Extract/particles.star --clusters 6",
        "finetune Extract/particles.star -o Finetune",
        "predict Extract/particles.star --model Finetune -o Predict",
    ):
        console.next_command(["cryoclass", *command.split()])
    if not same:
        raise CryoclassError("torch and ONNX disagree on a class.", "Please report this.")


def _label_free(outdir: Path, species: list[str]) -> float:
    """Return how well the clusters that were found without labels match the species."""
    import numpy as np

    from cryoclass.metrics import cluster_accuracy
    from cryoclass.particles import read_particles

    table = read_particles(outdir / "LabelFree" / "particles.star")
    clusters = np.array(table.cells("cryoclassCluster")).astype(int) - 1
    return cluster_accuracy(clusters, np.unique(species, return_inverse=True)[1])


def _relion_says(star: Path) -> str:
    """Let a real RELION select the first class, where it is installed."""
    program = shutil.which("relion_star_handler")
    if program is None:
        return "not installed here; the tables follow its rules"
    chosen = star.with_name("relion_class1.star")
    select = ["--select", "rlnClassNumber", "--minval", "1", "--maxval", "1"]
    done = subprocess.run(  # noqa: S603 - a program found on the user's PATH, with our own arguments
        [program, "--i", str(star), "--o", str(chosen), *select], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"relion_star_handler failed: {done.stderr.strip()[:200]}"
    from cryoclass.particles import read_particles

    return f"relion_star_handler selected class 1: {len(read_particles(chosen))} particles, in {chosen}"
