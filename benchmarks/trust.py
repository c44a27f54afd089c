"""What probabilities are worth, and what tells a species that nobody has labelled: on embeddings of the packaged network.

    python benchmarks/trust.py [--maps DIR] [--snr 0.1] [--seeds 5] [--labels 5 20] [--per-species 80] [--invented N]

Of each species some particles are labelled, 40 others are asked. Calibration: the head is fitted and calibrated as ``finetune --freeze``
does with everything labelled, and the calibration error (bins of equal numbers) on the particles asked is printed before and after. Unknown:
each species is left out once, the others are known, and the area under the ROC curve says how well a score tells particles of the one left
out from others of the known ones. Scores side by side: what ``cryoclass`` writes, and the usual ones. Without ``--maps``, on phantoms; with
``--invented``, on so many invented species.
"""

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from cryoclass.backbones.registry import load_backbone, spec
from cryoclass.calibration import fit_temperature
from cryoclass.cli import main as cryoclass
from cryoclass.embedding import fit_space
from cryoclass.familiarity import Learnt, fit_familiarity
from cryoclass.metrics import evaluate
from cryoclass.particles import read_particles
from cryoclass.preparation import Preparer
from cryoclass.pretraining.batches import draw_batch
from cryoclass.settings import Invention
from cryoclass.training.head import FREEDOM, fit_head

ASKED = 40
NAME = "res32-species"
Vectors = NDArray[np.float32]


# ------------------------------------------------------------------------------------------------ particles


def invented(species: int, options: argparse.Namespace, snr: float) -> tuple[Vectors, NDArray[np.int64]]:
    """Return embeddings and species of boxes of invented species."""
    generator = torch.Generator().manual_seed(12345)
    drawn = draw_batch(species, options.per_species, (snr, snr), Invention(), generator)
    backbone, preparer = load_backbone(NAME).eval(), Preparer(spec(NAME).resolve())
    with torch.inference_mode():
        vectors = [backbone(preparer(boxes)) for boxes in drawn.boxes.flatten(0, 1).split(64)]
    return torch.cat(vectors).numpy(), np.repeat(np.arange(species), options.per_species)


def simulated(folder: Path, options: argparse.Namespace, snr: float) -> tuple[Vectors, NDArray[np.int64]]:
    """Return embeddings and species of simulated particles, made and embedded by the commands."""
    maps = ("--maps", options.maps) if options.maps else ()
    made = ("--per-species", options.per_species, "--box", options.box, "--snr", snr, "--seed", 3)
    typed("simulate", "--particles", *maps, *made, "-o", folder / "S")
    typed("embed", folder / "S" / "particles.star", "--map", "pca", "-o", folder / "E")
    labels = read_particles(folder / "S" / "particles.star").labels("cryoclassLabel")
    return np.load(folder / "E" / "embeddings.npy"), np.unique(labels, return_inverse=True)[1]


def typed(*argv: object) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        if cryoclass([str(word) for word in argv]):
            sys.exit(f"cryoclass {' '.join(map(str, argv))} failed")


# --------------------------------------------------------------------------------------------------- scores

Score = Callable[[Vectors, NDArray[np.int64], Vectors], NDArray[np.float64]]


def logits_of(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:
    space = fit_space(train, natural_units=True)
    said = fit_head(space.place(train), targets).probabilities(space.place(asked))
    return np.log(np.maximum(said, 1e-30)).astype(np.float64)


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_probability(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:
    return -softmax(logits_of(train, targets, asked), axis=1).max(1)


def by_energy(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:
    space = fit_space(train, natural_units=True)
    head = fit_head(space.place(train), targets)
    return -logsumexp(space.place(asked) @ head.weight.T + head.bias, axis=1)


def by_cosine(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:
    means = np.stack([train[targets == k].mean(0) for k in np.unique(targets)]) - train.mean(0)
    return -(_unit(asked - train.mean(0)) @ _unit(means).T).max(1)


def by_neighbour(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:  # noqa: ARG001
    return np.linalg.norm(asked[:, None] - train[None], axis=2).min(1)


def by_familiarity(train: Vectors, targets: NDArray[np.int64], asked: Vectors) -> NDArray[np.float64]:
    nobody = np.zeros(len(train), bool)
    found = fit_familiarity(
        Learnt(embedding=train, targets=targets, held_out=nobody, natural_units=True), frozen=True
    )
    assert found is not None  # there are labels enough  # noqa: S101
    with torch.no_grad():
        return found[0](torch.from_numpy(asked)).double().numpy()


SCORES: dict[str, Score] = {
    "cryoclassUnknownScore": by_familiarity,
    "nearest neighbour": by_neighbour,
    "cosine to the class mean": by_cosine,
    "energy": by_energy,
    "largest probability": by_probability,
}


# ------------------------------------------------------------------------------------------------ measuring


def split(species: NDArray[np.int64], labels: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows that are labelled, and rows that are asked, of each species."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(species == k)) for k in np.unique(species)]
    return np.concatenate([r[:labels] for r in rows]), np.concatenate(
        [r[labels : labels + ASKED] for r in rows]
    )


def unknown(vectors: Vectors, species: NDArray[np.int64], labels: int, seeds: int) -> Iterator[str]:
    """Yield a line for each score: AUC over left-out species and seeds, mean and least; share of known ones below 1."""
    found, below = defaultdict(list), []
    for seed in range(seeds):
        train, asked = split(species, labels, seed)
        for out in np.unique(species):
            known = train[species[train] != out]
            targets = np.unique(species[known], return_inverse=True)[1]
            for name, score in SCORES.items():
                said = score(vectors[known], targets, vectors[asked])
                found[name].append(roc_auc_score(species[asked] == out, said))
                if name == "cryoclassUnknownScore":
                    below.append((said[species[asked] != out] < 1).mean())
    for name, areas in found.items():
        kept = f"{np.mean(below):.3f}" if name == "cryoclassUnknownScore" else ""
        yield f"| {name} | {np.mean(areas):.3f} | {np.min(areas):.3f} | {kept} | {len(areas)} |"


def calibration(vectors: Vectors, species: NDArray[np.int64], labels: int, seeds: int) -> str:
    """Return a line: accuracy, and calibration error before and after, mean over seeds and the largest."""
    before, after, right = [], [], []
    names = [str(k) for k in np.unique(species)]
    for seed in range(seeds):
        train, asked = split(species, labels, seed)
        crossed = np.zeros((len(train), len(names)))
        folds = StratifiedKFold(min(5, labels), shuffle=True, random_state=0)
        for rest, out in folds.split(train, species[train]):
            crossed[out] = logits_of(vectors[train[rest]], species[train[rest]], vectors[train[out]])
        temperature = fit_temperature(crossed, species[train])
        said = logits_of(vectors[train], species[train], vectors[asked])
        for errors, at in ((before, 1.0), (after, temperature)):
            scores = evaluate(softmax(said / at, axis=1), species[asked], names)
            errors.append(scores.calibration_error)
        right.append(scores.accuracy)
    cells = (np.mean(right), np.mean(before), np.max(before), np.mean(after), np.max(after))
    return f"| {labels} | {' | '.join(f'{value:.3f}' for value in cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--invented", type=int)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--per-species", type=int, default=80)
    parser.add_argument("--box", type=int, default=32)
    options = parser.parse_args(argv)
    for snr in options.snr:
        with tempfile.TemporaryDirectory() as folder:
            if options.invented:
                vectors, species = invented(options.invented, options, snr)
            else:
                vectors, species = simulated(Path(folder), options, snr)
        print(
            f"\nSNR {snr:g}, C {FREEDOM:g}\n\n| labels | accuracy | error before | most | after | most |\n|--:|--:|--:|--:|--:|--:|"
        )
        for labels in options.labels:
            print(calibration(vectors, species, labels, options.seeds))
        for labels in options.labels:
            print(
                f"\n| left-out species, {labels} labels | AUC | least | known below 1 | cases |\n|---|--:|--:|--:|--:|"
            )
            print(*unknown(vectors, species, labels, options.seeds), sep="\n")


if __name__ == "__main__":
    main()
