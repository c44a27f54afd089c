"""How many labels a class particles of one's own need: logistic regression on what `cryoclass embed` wrote.

    cryoclass embed PARTICLES.star -o Embed/
    python benchmarks/labels_needed.py Embed/ [--splits 10]

The table must hold labels (cryoclassLabel); rows with `unlabelled` take no part. Each split takes some particles of each class as labelled, at random, and tests on
ten others of each, the same ones for every number of labels. Prints mean and standard deviation of the accuracy.
"""

import argparse
from pathlib import Path

import numpy as np
import starfile
from sklearn.linear_model import LogisticRegression

LABELS, TEST = (1, 5, 10, 20), 10


def accuracy(embedding: np.ndarray, labels: np.ndarray, count: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test += list(rows[:TEST])
        train += list(rows[TEST : TEST + count])
    head = LogisticRegression(C=1.0, max_iter=2000).fit(embedding[train], labels[train])
    return float((head.predict(embedding[test]) == labels[test]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what cryoclass embed wrote")
    parser.add_argument("--splits", type=int, default=10)
    options = parser.parse_args()
    embedding = np.load(options.folder / "embeddings.npy")
    table = starfile.read(options.folder / "particles.star", always_dict=True)
    labels = table[next(name for name in table if "optics" not in name)]["cryoclassLabel"].to_numpy(str)
    known = labels != "unlabelled"
    embedding, labels = embedding[known], labels[known]
    names, counts = np.unique(labels, return_counts=True)
    print(f"{len(labels)} particles of {len(names)} classes, chance {1 / len(names):.3f}")
    for count in (count for count in LABELS if count + TEST <= counts.min()):
        found = [accuracy(embedding, labels, count, seed) for seed in range(options.splits)]
        print(f"{count:3d} labels a class: {np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")


if __name__ == "__main__":
    main()
