"""``--freeze``: the backbone stays as it is, and the head alone is fitted.

Each particle goes through the backbone once, so there is no augmentation: every changed view would be another pass. The head
is fitted several times, with ever more freedom to follow the training particles, and the validation particles choose.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.card import EMBEDDING
from cryoclass.classifier import Classifier
from cryoclass.embedding import Vectors, fit_space
from cryoclass.familiarity import FOLDS, Learnt
from cryoclass.metrics import evaluate
from cryoclass.settings import Recipe
from cryoclass.training.head import FREEDOM, Head, fit_head
from cryoclass.training.history import HeadRecord, History
from cryoclass.training.loop import (
    Embedding,
    LabelledBoxes,
    Run,
    embed_boxes,
    keeper_of,
    memory_explained,
    read_labelled,
    to_device,
)
from cryoclass.training.state import EMBEDDED, check_embedded
from cryoclass.training.trust import How, Trust, calibrate, get_familiar, temperature_of, unknown_scores

Said = dict[str, NDArray[np.float32]]

FREEDOMS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # the simplest head first


@memory_explained()
def fit_frozen(classifier: Classifier, examples: LabelledBoxes, recipe: Recipe, run: Run) -> History:
    """Fit the head of ``classifier`` in place; it ends with the freedom that has the best validation AUC.

    What the backbone says is kept, and a run that was killed goes on with the particles that are left.

    Parameters
    ----------
    classifier, examples
        The network, and what it learns from.
    recipe
        Only its preparation and batch size count.
    run
        With ``keep_last``, which is for those who have no particles to choose by, the usual freedom alone is tried.

    Raises
    ------
    ParticleError
        Too few particles can be read, or what the backbone says of one is not finite.
    ModelError, UsageError
        The checkpoints are damaged, or belong to another run.
    CryoclassError
        There is too little memory.
    """
    boxes = read_labelled(examples, run)
    to_device(classifier, run.device)
    keeper = keeper_of(examples, boxes, recipe, run)
    work = Embedding(classifier=classifier, boxes=boxes, recipe=recipe, run=run, keeper=keeper)
    embedding = embed_boxes(work, _embedded(work))
    boxes.check_unchanged()
    parts, targets = examples.parts[boxes.rows], examples.labels[boxes.rows].astype(np.int64)
    space = fit_space(embedding[parts == "train"], natural_units=classifier.backbone.facts.natural_units)
    seen = _Seen(features=space.place(embedding), targets=targets, parts=parts, classes=examples.classes)
    tried = _try_freedoms(seen, (FREEDOM,) if run.keep_last else FREEDOMS, run)
    best = [head for record, head in tried if record.best][-1]
    best.write_to(classifier.head, space)
    held_out = np.flatnonzero(parts != "train")
    held_out = held_out[np.argsort(boxes.rows[held_out])]
    said = {
        "probabilities": best.probabilities(seen.features[held_out]),
        EMBEDDING: embedding[held_out],
    }
    chosen = next(record.freedom for record, _ in reversed(tried) if record.best)
    said, trust = _trusted(classifier, seen, embedding, chosen, said)
    return History(
        records=tuple(record for record, _ in tried),
        skipped=boxes.skipped,
        rows=boxes.rows[held_out],
        said=said,
        trust=trust,
    )


def _trusted(
    classifier: Classifier, seen: "_Seen", embedding: Vectors, freedom: float, said: Said
) -> tuple[Said, Trust]:
    """Calibrate the head by cross-validation, and learn how far particles of known classes lie; return what is said then."""
    crossed, targets = _crossed(seen, freedom)
    temperature, count = temperature_of({"probabilities": crossed}, targets, np.ones(len(targets), bool))
    known = np.isin(seen.parts, ["train", "val"]) & (seen.targets >= 0)
    learnt = Learnt(
        embedding=embedding[known],
        targets=seen.targets[known],
        held_out=seen.parts[known] == "val",
        natural_units=classifier.backbone.facts.natural_units,
    )
    said = calibrate(classifier.head, said, temperature)
    usual = get_familiar(classifier, learnt, frozen=True)
    said |= unknown_scores(classifier, said[EMBEDDING])
    how: How = "cross-validation" if count else "nothing"
    return said, Trust(temperature=temperature, how=how, count=count, usual=usual)


def _crossed(seen: "_Seen", freedom: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what heads say of particles that they were not fitted to, and the classes of those: all but the test particles.

    Classes of which there is one particle alone take part in every fit, and are not said of.
    """
    from sklearn.model_selection import StratifiedKFold

    rows = np.flatnonzero(np.isin(seen.parts, ["train", "val"]))
    features, targets = seen.features[rows], seen.targets[rows]
    several = np.flatnonzero(np.bincount(targets)[targets] > 1)
    if not len(several):
        return np.zeros((0, len(seen.classes)), np.float32), targets[:0]
    folds = min(FOLDS, int(np.bincount(targets[several])[targets[several]].min()))
    said = np.zeros((len(rows), len(seen.classes)), np.float32)
    for _, left_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(several, targets[several]):
        out = several[left_out]
        rest = np.delete(np.arange(len(rows)), out)
        said[out] = fit_head(features[rest], targets[rest], freedom).probabilities(features[out])
    return said[several], targets[several]


def _embedded(work: Embedding) -> list[Tensor]:
    """Return what a killed run has embedded, whole batches of the first particles."""
    count, width = len(work.boxes.rows), work.classifier.backbone.width
    found = work.keeper.find(lambda state: check_embedded(state, width, count, work.recipe.batch_size))
    if found is None:
        return []
    state, name = found
    work.run.keeping.note(f"going on after {len(state[EMBEDDED])} of {count} embedded particles, from {name}")
    return [state[EMBEDDED]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """Particles as the backbone sees them: features (n, E), their classes and their parts, (n,)."""

    features: Vectors
    targets: NDArray[np.int64]
    parts: NDArray[np.str_]
    classes: tuple[str, ...]

    def of(self, part: str) -> tuple[Vectors, NDArray[np.int64]]:
        """Return features and classes of one part."""
        return self.features[self.parts == part], self.targets[self.parts == part]


def _try_freedoms(seen: _Seen, freedoms: Sequence[float], run: Run) -> list[tuple[HeadRecord, Head]]:
    """Fit and score a head with each freedom; of equals, the simpler one stays the best."""
    tried: list[tuple[HeadRecord, Head]] = []
    highest: tuple[float, ...] = (-np.inf, -np.inf)
    for freedom in freedoms:
        record, head = _try(seen, freedom)
        record = replace(record, best=record.rank > highest)
        highest = max(highest, record.rank)
        run.on_record(record)
        tried.append((record, head))
    return tried


def _try(seen: _Seen, freedom: float) -> tuple[HeadRecord, Head]:
    started = time.perf_counter()
    train, val = seen.of("train"), seen.of("val")
    head = fit_head(*train, freedom)
    said = head.probabilities(val[0])
    metrics = evaluate(said, val[1], seen.classes)
    record = HeadRecord(
        freedom=freedom,
        train_loss=head.loss(*train),
        val_loss=metrics.log_loss,
        val_accuracy=metrics.accuracy,
        val_auc=metrics.auc,
        seconds=time.perf_counter() - started,
        best=False,
    )
    return record, head
