"""How many labels a network needs: frozen features and fine-tuning from several starts, on particles it has never seen.

    python benchmarks/few_labels.py MAPS [--species NAME ...] [--starts ours random] [--seeds 5] [--json FILE]
    python benchmarks/few_labels.py phantoms --snr 0.1                # needs no maps: what the card of res32-species holds

MAPS is a folder of density maps in MRC files (protein positive). Every particle is a map in a random orientation, off the
centre of a box of 32 pixels of 10 angstroms by up to 2 pixels, seen with a contrast transfer of 2.5 to 7 micrometres under
focus at 300 kV and tilts of -60 to 60 degrees, in white noise that has passed the same missing wedge. SNR is the variance of
the signal over the variance of the noise, both within the box, and the same for every particle. Each seed draws its own
particles: 40 of each species to test on, and up to 20 with labels.

Starts:
    ours        res32-species, the weights that come with cryoclass
    random      the same network from random weights
    r3d34       3D ResNet-34 from random weights with the paper's input, or from video with --video FILE; hours on a CPU

Ways to learn from the labels:
    frozen      logistic regression on the embedding
    fine-tuned  the recipe that finetune takes for that start, with as many steps for random weights as for ours
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cryoclass.backbones.registry import load_backbone, spec
from cryoclass.backbones.spec import Backbone
from cryoclass.classifier import Classifier, start_classifier
from cryoclass.preparation import Preparer
from cryoclass.settings import Preparation, Recipe, Simulation, Start, Training
from cryoclass.simulation.maps import read_maps
from cryoclass.simulation.optics import contrast_transfer, seen_by_tilts, transferred
from cryoclass.simulation.phantoms import phantom_densities
from cryoclass.simulation.rotations import random_rotations
from cryoclass.simulation.tomogram import Shape, noise_for, prepare_shapes, turned
from cryoclass.training.finetune import choose_recipe
from cryoclass.training.loop import LabelledBoxes, Run, fit
from cryoclass.volumes.crop import crop

SIDE, TILT = 32, 60.0
ROOM = 48  # pixels of 10 angstroms: the largest maps stick out of the box of 32, and are cut by it
DEFOCUS = (2.5, 7.0)
SHIFT = 2.0
TEST, MOST = 40, 20  # of each species
TEN = ("1bxn", "1qvr", "1s3x", "1u6g", "2cg9", "3cf3", "3d2f", "3gl1", "4cr2", "5mrc")
SNRS, LABELS = (0.3, 0.1, 0.03), (1, 5, 10, 20)

Volumes = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Particles:
    """Boxes of known species, signal and noise apart: (n, z, y, x), both of variance 1; labels (n,) from 0."""

    signal: Volumes
    noise: Volumes
    labels: NDArray[np.int64]

    def boxes(self, snr: float) -> Volumes:
        return np.float32(np.sqrt(snr)) * self.signal + self.noise


def simulate(shapes: dict[str, Shape], seed: int, angpix: float) -> Particles:
    """Draw ``MOST + TEST`` particles of each species, one species after the other."""
    rng = np.random.default_rng(seed)
    cube, room = (SIDE,) * 3, room_for(angpix)
    seen, optics = seen_by_tilts(cube, TILT), Simulation(angpix=angpix)
    signal, noise, labels = [], [], []
    for label, shape in enumerate(shapes.values()):
        for rotation in random_rotations(MOST + TEST, rng):
            direction = rng.standard_normal(3)
            offset = SHIFT * rng.uniform() ** (1 / 3) * direction / np.linalg.norm(direction)
            clean = crop(turned(shape, rotation, offset), (room // 2,) * 3, SIDE)
            shown = transferred(clean, contrast_transfer(cube, optics, rng.uniform(*DEFOCUS)) * seen)
            signal.append(shown / shown.std())
            noise.append(noise_for(1.0, cube, TILT, rng))
            labels.append(label)
    return Particles(signal=np.stack(signal), noise=np.stack(noise), labels=np.array(labels))


def room_for(angpix: float) -> int:
    """Return the side of the cubes, in pixels, that hold every species in every orientation."""
    return max(SIDE, 2 * round(ROOM * 10 / angpix / 2))


def chosen(labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows with labels, the first ``count`` of each species, and the rows to test on."""
    number = np.concatenate([np.arange((labels == label).sum()) for label in np.unique(labels)])
    return np.flatnonzero(number < count), np.flatnonzero(number >= MOST)


# ------------------------------------------------------------------------------------------------ learning


class InMemory:
    """The boxes as a source of voxels, which is what training reads from."""

    angpix = 10.0  # nothing depends on it here
    box = SIDE

    def __init__(self, boxes: Volumes) -> None:
        self.boxes = boxes
        self.order = np.arange(len(boxes))

    def __len__(self) -> int:
        return len(self.boxes)

    def read(self, row: int) -> Volumes:
        return self.boxes[row]


@torch.no_grad()
def embed(backbone: Backbone, preparation: Preparation, boxes: Volumes) -> NDArray[np.float32]:
    backbone.eval()
    preparer = Preparer(preparation)
    return torch.cat([backbone(preparer(raw)) for raw in torch.from_numpy(boxes).split(60)]).numpy()


def frozen(features: NDArray[np.float32], labels: NDArray[np.int64], count: int, *, natural: bool) -> float:
    """Return the accuracy of logistic regression on the embedding, standardised where it is in no units of its own."""
    train, test = chosen(labels, count)
    freedom = 1.0 if natural else 0.1  # chosen on the phantoms; for random weights nothing else was tried
    head = make_pipeline(StandardScaler(with_std=not natural), LogisticRegression(C=freedom, max_iter=2000))
    head.fit(features[train], labels[train])
    return float((head.predict(features[test]) == labels[test]).mean())


def fine_tuned(start: Start, boxes: Volumes, labels: NDArray[np.int64], count: int, seed: int) -> float:
    """Return the accuracy of the recipe that ``finetune`` takes for this start, after its last epoch.

    No label is spared to choose an epoch by; a copy of one training particle a species stands for the validation.
    """
    train, test = chosen(labels, count)
    recipe = recipe_for(start)
    classes = tuple(f"species{label}" for label in np.unique(labels))
    torch.manual_seed(seed)
    classifier = start_classifier(
        Classifier(start.backbone, len(classes)),
        weights=start.weights,
        as_pretrained=recipe.preparation.intensity == "as-pretrained",
    )
    copied = chosen(labels, 1)[0]
    rows = np.concatenate([train, copied])
    examples = LabelledBoxes(
        source=InMemory(boxes[rows]),
        labels=labels[rows],
        parts=np.repeat(["train", "val"], [len(train), len(copied)]),
        classes=classes,
    )
    fit(classifier, examples, recipe, Run(device=torch.device("cpu"), seed=seed, keep_last=True))
    classifier.eval()
    preparer = Preparer(recipe.preparation)
    with torch.no_grad():
        logits = [
            classifier(preparer(raw), preparer.grey(raw))["logits"]
            for raw in torch.from_numpy(boxes[test]).split(60)
        ]
    return float((torch.cat(logits).argmax(1).numpy() == labels[test]).mean())


def recipe_for(start: Start) -> Recipe:
    """Return the recipe of ``finetune``; random weights of the small network get as many steps at a rate that suits them."""
    if start.backbone == "res32":
        few = choose_recipe(start, Training(recipe="few"))
        return few.replace(lr=1e-3, head_first=False, freeze_norm=False)
    return choose_recipe(start, Training())


# --------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, kw_only=True)
class Score:
    """One accuracy."""

    start: str
    way: str
    snr: float
    labels: int
    seed: int
    accuracy: float


def scores_of(
    name: str, start: Start, particles: Particles, seed: int, options: argparse.Namespace
) -> list[Score]:
    found = []
    torch.manual_seed(seed)
    backbone = load_backbone(start.backbone, weights=start.weights, as_pretrained=True)
    preparation = spec(start.backbone).resolve()
    for snr in options.snr:
        boxes = particles.boxes(snr)
        ways = {}
        if "frozen" in options.ways:
            features = embed(backbone, preparation, boxes)
            ways["frozen"] = lambda count, features=features: frozen(
                features, particles.labels, count, natural=name == "ours"
            )
        if "fine-tuned" in options.ways:
            ways["fine-tuned"] = lambda count, boxes=boxes: fine_tuned(
                start, boxes, particles.labels, count, seed
            )
        for way, accuracy in ways.items():
            for count in options.labels:
                score = Score(start=name, way=way, snr=snr, labels=count, seed=seed, accuracy=accuracy(count))
                print(score, flush=True)
                found.append(score)
    return found


def table(scores: list[Score]) -> str:
    """Return mean and standard deviation over the seeds as Markdown."""
    counts = sorted({score.labels for score in scores})
    lines = [
        f"| SNR | start | way | {' | '.join(f'{count} labels' for count in counts)} |",
        "|--:|---|---|" + "--:|" * len(counts),
    ]
    rows = sorted({(-score.snr, score.start, score.way) for score in scores})
    for negative, start, way in rows:
        cells = []
        for count in counts:
            values = [
                s.accuracy
                for s in scores
                if (-s.snr, s.start, s.way, s.labels) == (negative, start, way, count)
            ]
            cells.append(
                f"{np.mean(values):.3f} ± {np.std(values, ddof=len(values) > 1):.3f}" if values else "-"
            )
        lines.append(f"| {-negative:g} | {start} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def densities_of(where: str, names: list[str], angpix: float) -> dict[str, Volumes]:
    if where == "phantoms":
        return phantom_densities(Simulation(angpix=angpix, box=room_for(angpix)))
    maps = read_maps(Path(where), angpix, room_for(angpix))
    return {name: maps[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", help="folder of density maps, or the word phantoms")
    parser.add_argument("--species", nargs="+", default=TEN)
    parser.add_argument(
        "--starts", nargs="+", default=["ours", "random"], choices=["ours", "random", "r3d34"]
    )
    parser.add_argument(
        "--ways", nargs="+", default=["frozen", "fine-tuned"], choices=["frozen", "fine-tuned"]
    )
    parser.add_argument("--snr", nargs="+", type=float, default=SNRS)
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument(
        "--angpix", type=float, default=10.0, help="pixel size in angstroms; the box stays 32 pixels"
    )
    parser.add_argument("--dark", action="store_true", help="dark particles, which nobody has turned bright")
    parser.add_argument("--weights", type=Path, help="other weights for ours")
    parser.add_argument("--video", type=Path, help="weights of r3d34-k400")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="where every single accuracy goes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    starts = {
        "ours": Start(backbone="res32-species", weights=options.weights),
        "random": Start(backbone="res32"),
        "r3d34": Start(backbone="r3d34-k400" if options.video else "r3d34", weights=options.video),
    }
    densities = densities_of(options.maps, options.species, options.angpix)
    shapes = prepare_shapes(densities, room_for(options.angpix))
    began, scores = time.perf_counter(), []
    for seed in options.seeds:
        particles = simulate(shapes, seed, options.angpix)
        if options.dark:
            particles = replace(particles, signal=-particles.signal)
        for name in options.starts:
            scores += scores_of(name, starts[name], particles, seed, options)
    if options.json:
        options.json.write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n")
    print(table(scores))
    print(f"{len(shapes)} species, {len(options.seeds)} seeds, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
