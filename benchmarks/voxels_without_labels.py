"""Masks and densities by the model that comes with cryoclass, which has seen invented species alone: on phantoms, or on your own maps.

    python benchmarks/voxels_without_labels.py [--maps DIR] [--snr 0.3 0.1 0.03] [--per-species 20] [--angpix 10] [--box 40] [--model DIR] [-o DIR]

Crowded tomograms are simulated with their truth, boxes are cut, and ``predict --tasks segment,recover`` is typed with no
training at all. Prints IoU of the masks and Pearson correlation of the densities with the clean ones, beside that of the boxes as they
are and low-passed to 8 pixels: means over particles with their 95 % intervals; and down to how many angstroms the Fourier shell
correlation stays at 0.5.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from joint_tasks import stack, typed

from cryoclass.images import FileSource
from cryoclass.particles import Particles, read_particles
from cryoclass.tasks import SEGMENT
from cryoclass.tasks.dense import Mean
from cryoclass.training.recovery import RAW, RECOVERED, SMOOTH, measure_recovery

SIZE = ("48", "256", "256")
TOMOGRAMS = 4


def masks_and_densities(folder: Path, snr: float, options: argparse.Namespace) -> tuple[Path, Path]:
    """Return a table of simulated particles with their truth, and the same with what the model says."""
    maps = ("--maps", options.maps) if options.maps else ()
    made = ("--per-species", options.per_species, "--tomograms", TOMOGRAMS, "--size", *SIZE, "--seed", 7)
    size = ("--angpix", options.angpix, "--box", options.box)
    typed("simulate", "--truth", *maps, *made, *size, "--snr", snr, "-o", folder / "Simulated")
    cut = ("--tomograms", folder / "Simulated" / "tomograms", "--box", options.box)
    typed("extract", folder / "Simulated" / "coordinates.star", *cut, "-o", folder / "Extract")
    true, model = folder / "Extract" / "particles.star", ("--model", options.model) if options.model else ()
    typed("predict", true, "--tasks", "segment,recover", *model, "-o", folder / "Predict")
    return true, folder / "Predict" / "particles.star"


def lines(name: str, true: Particles, said: Particles, rows: np.ndarray) -> Iterator[str]:
    """Yield one line of the table for some rows."""
    volumes = {truth: [stack(table, truth)[rows] for table in (said, true)] for truth in ("mask", "density")}
    boxes = FileSource(true)
    raw = torch.from_numpy(np.stack([boxes.read(int(row)) for row in rows]))
    iou = Mean.of(SEGMENT.judge({"mask": volumes["mask"][0]}, volumes["mask"][1])["iou"].numpy())
    scores = measure_recovery([(raw, *volumes["density"])], boxes.angpix)
    assert scores is not None  # every particle has its truth  # noqa: S101
    found = [scores.correlations[of] for of in (RECOVERED, RAW, SMOOTH)]
    finest = scores.resolution(RECOVERED, "all")
    cells = [name, *map(str, (iou, *found)), "-" if finest is None else f"{finest:.0f}", len(rows)]
    yield f"| {' | '.join(map(str, cells))} |"


def run(folder: Path, options: argparse.Namespace) -> None:
    """Print the table."""
    print("| | IoU | correlation | of the box | low-passed | FSC 0.5 (A) | particles |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for snr in options.snr:
        tables = map(read_particles, masks_and_densities(folder / f"snr{snr:g}", snr, options))
        true, said = tables
        species = np.array(true.labels("cryoclassLabel"))
        print(*lines(f"all, SNR {snr:g}", true, said, np.arange(len(true))), sep="\n")
        for name in sorted(set(species)) if snr == options.by_species else ():
            print(*lines(f"{name}, SNR {snr:g}", true, said, np.flatnonzero(species == name)), sep="\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.3, 0.1, 0.03])
    parser.add_argument("--by-species", type=float, default=0.1, help="SNR at which each species has a line.")
    parser.add_argument("--per-species", type=int, default=20)
    parser.add_argument("--angpix", type=float, default=10)
    parser.add_argument("--box", type=int, default=40)
    parser.add_argument("--model", type=Path)
    parser.add_argument("-o", "--outdir", type=Path)
    options = parser.parse_args(argv)
    if options.outdir is not None:
        run(options.outdir, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
