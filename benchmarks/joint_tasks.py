"""Whether tasks help each other, and what of them holds on a species that was left out: all through the command line.

    python benchmarks/joint_tasks.py [--snr 0.1 0.05] [--seeds 3] [--species 6] [--per-species 60] [--epochs 20] [--backbone NAME]
        [--fresh-decoder] [--no-left-out] [-o DIR]

Crowded tomograms (particles up to touching each other) are simulated with their truth. One network learns all tasks, and one of the same size each task
alone, as many epochs on the same particles; scores are those of the test part, tomograms that no training saw. Then the joint network learns once more
from all species but the largest, and both are asked for the masks and densities of that species in the last tomogram, which neither has learnt from. Prints
mean and standard deviation over the seeds; a folder that is kept (-o) is gone on with.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cryoclass.backbones.packaged import packaged_weights
from cryoclass.backbones.registry import spec
from cryoclass.cli import main as cryoclass
from cryoclass.images import FileSource
from cryoclass.particles import Particles, read_particles
from cryoclass.tasks import RECOVER, SEGMENT
from cryoclass.truths import NamedVolumes

TASKS = ("classify", "segment", "recover", "classify,segment,recover")
JOINT = TASKS[-1]
TOMOGRAMS = 6
SIZE = ("48", "160", "160")


@dataclass
class Scores:
    """Figures by what was measured; one value a seed."""

    found: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def add(self, *what: str, value: float) -> None:
        self.found.setdefault(what, []).append(value)

    def lines(self) -> Iterator[str]:
        for what, values in self.found.items():
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            yield f"| {' | '.join(what)} | {np.mean(values):.3f}{spread} | {len(values)} |"


def typed(*argv: object) -> None:
    """Type a command; one whose results are there is not typed again."""
    outdir = Path(str(argv[argv.index("-o") + 1]))
    finished = {"simulate": "truth.star", "finetune": "model.json"}.get(str(argv[0]), "particles.star")
    if (outdir / finished).exists():
        return
    with contextlib.redirect_stdout(sys.stderr):
        if cryoclass([str(word) for word in argv]):
            sys.exit(f"cryoclass {' '.join(map(str, argv))} failed")


def joint_and_alone(folder: Path, snr: float, seed: int, options: argparse.Namespace, scores: Scores) -> None:
    """Let each set of tasks be learnt from the same particles, and write down the scores of the test part."""
    network = _network(options, seed)
    for tasks in TASKS:
        model = folder / options.backbone / tasks.replace(",", "-")
        typed("finetune", folder / "Extract" / "particles.star", "--tasks", tasks, *network, "-o", model)
        test = json.loads((model / "metrics.json").read_text())["test"]
        figures = {"accuracy": test.get("accuracy"), "macro F1": test.get("macro_f1")}
        figures |= {
            "IoU": _mean(test, "segment", "iou"),
            "correlation": _mean(test, "recover", "correlation"),
        }
        for name, value in figures.items():
            if value is not None:
                scores.add(f"{snr:g}", name, "joint" if tasks == JOINT else "alone", value=value)


def _network(options: argparse.Namespace, seed: int) -> tuple[object, ...]:
    """Return what is typed of the network; weights from a file bring a backbone alone."""
    entry = spec(options.backbone)
    fresh = ("--weights", packaged_weights(entry)) if options.fresh_decoder and entry.packaged else ()
    return ("--backbone", entry.name, *fresh, "-n", options.epochs, "--seed", seed)


def _mean(test: dict, task: str, figure: str) -> float | None:
    return test[task][figure]["mean"] if task in test else None


def left_out(folder: Path, snr: float, seed: int, options: argparse.Namespace, scores: Scores) -> None:
    """Let the joint network learn with and without the largest species, and ask both for that one."""
    table = read_particles(folder / "Extract" / "particles.star")
    labels, tomograms = np.array(table.labels("cryoclassLabel")), np.array(table.tomograms)
    species, last = _largest(table, labels), sorted(set(tomograms))[-1]
    asked = _written(table, (labels == species) & (tomograms == last), folder / "asked.star")
    network = (*_network(options, seed), "--tasks", JOINT)
    for name, rows in (
        ("seen", tomograms != last),
        ("never seen", (tomograms != last) & (labels != species)),
    ):
        word = name.replace(" ", "-")
        taught = _written(table, rows, folder / f"{word}.star")
        typed("finetune", taught, *network, "-o", folder / word)
        said = folder / f"Said-{word}"
        typed("predict", asked, "--model", folder / word, "--tasks", "segment,recover", "-o", said)
        for figure, value in _held(asked, said / "particles.star").items():
            scores.add(f"{snr:g}", figure, f"{species}, {name}", value=value)


def _largest(table: Particles, labels: np.ndarray) -> str:
    masks = NamedVolumes(table, "mask", FileSource(table))
    sizes = {name: masks.read(int(np.flatnonzero(labels == name)[0])).sum() for name in Counter(labels)}
    return max(sizes, key=lambda name: sizes[name])


def _written(table: Particles, rows: np.ndarray, path: Path) -> Path:
    table.select(np.flatnonzero(rows).tolist()).write(path)
    return path


def _held(asked: Path, said: Path) -> dict[str, float]:
    """Return the mean figures of written masks and densities against the truth."""
    true, found = read_particles(asked), read_particles(said)
    figures = {}
    for task, figure, name in ((SEGMENT, "iou", "IoU"), (RECOVER, "correlation", "correlation")):
        volumes = [stack(table, task.truth) for table in (found, true)]
        figures[name] = float(task.judge({task.truth: volumes[0]}, volumes[1])[figure].mean())
    return figures


def stack(table: Particles, truth: str) -> torch.Tensor:
    """Return the volumes that a table names; masks of 0 and 1, as they are counted."""
    volumes = NamedVolumes(table, truth, FileSource(table))
    return torch.from_numpy(np.stack([volumes.read(row) for row in range(len(table))]))


def simulated(folder: Path, snr: float, seed: int, options: argparse.Namespace) -> None:
    """Simulate crowded tomograms with their truth, and cut the boxes."""
    what = ("--species", options.species, "--per-species", options.per_species, "--tomograms", TOMOGRAMS)
    how = ("--size", *SIZE, "--snr", snr, "--seed", seed)
    typed("simulate", "--truth", *what, *how, "-o", folder / "Simulated")
    cut = ("--tomograms", folder / "Simulated" / "tomograms", "--box", 32)
    typed("extract", folder / "Simulated" / "coordinates.star", *cut, "-o", folder / "Extract")


def run(folder: Path, options: argparse.Namespace) -> None:
    """Run everything and print the tables."""
    alone, without = Scores(), Scores()
    places = [
        (folder / f"snr{snr:g}-{seed}", snr, seed) for snr in options.snr for seed in range(options.seeds)
    ]
    for here, snr, seed in places:
        simulated(here, snr, seed, options)
        joint_and_alone(here, snr, seed, options, alone)
    for here, snr, seed in places if options.left_out else ():
        left_out(here, snr, seed, options, without)
    print("| SNR | figure | learnt | mean ± deviation | seeds |\n|---|---|---|--:|--:|")
    print(*alone.lines(), *without.lines(), sep="\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--species", type=int, default=6)
    parser.add_argument("--per-species", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--backbone", default="res32-species")
    parser.add_argument("--left-out", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--fresh-decoder", action="store_true", help="Not the decoder that comes with cryoclass."
    )
    parser.add_argument("-o", "--outdir", type=Path)
    options = parser.parse_args(argv)
    if options.outdir is not None:
        run(options.outdir, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
