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

from cryoclass.classifier import Classifier
from cryoclass.embedding import Space, Vectors, fit_space
from cryoclass.familiarity import Learnt, Usual
from cryoclass.metrics import evaluate
from cryoclass.settings import Recipe
from cryoclass.training.folds import shared_out
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
from cryoclass.training.splits import CROSSED, TAUGHT
from cryoclass.training.state import EMBEDDED, check_embedded
from cryoclass.training.trust import How, Trust, calibrate, get_familiar, temperature_of, unknown_scores

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
    seen = _seen(examples, boxes.rows, embedding, classifier.backbone.facts.natural_units)
    tried = _try_freedoms(seen, (FREEDOM,) if run.keep_last else FREEDOMS, run)
    record, head = [(record, head) for record, head in tried if record.best][-1]
    head.write_to(classifier.head, seen.space)
    crossed = _crossed(seen, record.freedom)
    temperature, count = temperature_of(crossed.said, seen.targets[crossed.rows])
    # Particles that were held out are told of by the head itself, all others by the fits that had not seen them.
    held_out = np.flatnonzero(np.isin(seen.parts, ("val", "test")))
    scored = crossed.of(seen.parts, CROSSED) if not len(held_out) else _Told.by(head, seen, held_out)
    scored = scored.in_order(boxes.rows)
    said = calibrate(classifier.head, scored.said, temperature)
    usual = _get_familiar(classifier, seen)
    said |= unknown_scores(classifier, seen.embedding[scored.rows])
    how: How = "cross-validation" if count else "nothing"
    return History(
        records=tuple(record for record, _ in tried),
        skipped=boxes.skipped,
        rows=boxes.rows[scored.rows],
        said=said if len(scored.rows) else {},
        trust=Trust(temperature=temperature, how=how, count=count, usual=usual),
    )


def _get_familiar(classifier: Classifier, seen: "_Seen") -> Usual | None:
    """Let the classifier learn how far particles of known classes lie, by all but the test particles."""
    known = seen.parts != "test"
    learnt = Learnt(
        embedding=seen.embedding[known],
        targets=seen.targets[known],
        held_out=seen.parts[known] == "val",
        natural_units=seen.natural_units,
    )
    return get_familiar(classifier, learnt, frozen=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    """What heads say of particles that they were not fitted to: places (m,) among those that were read, and probabilities (m, K)."""

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @classmethod
    def by(cls, head: Head, seen: "_Seen", rows: NDArray[np.int64]) -> "_Told":
        """Return what a head says of some particles."""
        return cls(rows=rows, probabilities=head.probabilities(seen.features[rows]))

    @property
    def said(self) -> dict[str, NDArray[np.float32]]:
        """The probabilities by their name."""
        return {"probabilities": self.probabilities}

    def of(self, parts: NDArray[np.str_], part: str) -> "_Told":
        """Return those of one part, for the parts (n,) of all particles."""
        chosen = parts[self.rows] == part
        return _Told(rows=self.rows[chosen], probabilities=self.probabilities[chosen])

    def in_order(self, table_rows: NDArray[np.int64]) -> "_Told":
        """Return the same in the order of the table, for the rows (n,) of all particles."""
        order = np.argsort(table_rows[self.rows])
        return _Told(rows=self.rows[order], probabilities=self.probabilities[order])


def _crossed(seen: "_Seen", freedom: float) -> _Told:
    """Return what is said of all but the test particles, each by a head that was fitted to others."""
    rows = np.flatnonzero(seen.parts != "test")
    targets, rounds = seen.targets[rows], []
    for rest, out in shared_out(targets, [group[rows] for group in seen.groups]):
        rounds.append(_Told.by(fit_head(seen.features[rows[rest]], targets[rest], freedom), seen, rows[out]))
    if not rounds:
        return _Told(rows=rows[:0], probabilities=np.zeros((0, len(seen.classes)), np.float32))
    return _Told(
        rows=np.concatenate([told.rows for told in rounds]),
        probabilities=np.concatenate([told.probabilities for told in rounds]),
    )


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
    """Particles as the backbone sees them.

    ``embedding`` (n, E) and the same placed in ``space``, ``features``; classes ``targets`` and ``parts``, (n,); ``groups`` that cross-validation keeps
    together, each (n,).
    """

    embedding: Vectors
    features: Vectors
    space: Space
    targets: NDArray[np.int64]
    parts: NDArray[np.str_]
    groups: tuple[NDArray[np.integer], ...]
    classes: tuple[str, ...]
    natural_units: bool

    @property
    def taught(self) -> tuple[Vectors, NDArray[np.int64]]:
        """Features and classes of those that the head is fitted to."""
        chosen = np.isin(self.parts, TAUGHT)
        return self.features[chosen], self.targets[chosen]


def _seen(examples: LabelledBoxes, rows: NDArray[np.int64], embedding: Vectors, natural_units: bool) -> _Seen:
    parts = examples.parts[rows]
    space = fit_space(embedding[np.isin(parts, TAUGHT)], natural_units=natural_units)
    return _Seen(
        embedding=embedding,
        features=space.place(embedding),
        space=space,
        targets=examples.labels[rows].astype(np.int64),
        parts=parts,
        groups=tuple(group[rows] for group in examples.groups),
        classes=examples.classes,
        natural_units=natural_units,
    )


def _try_freedoms(seen: _Seen, freedoms: Sequence[float], run: Run) -> list[tuple[HeadRecord, Head]]:
    """Fit and score a head with each freedom; of equals, the simpler one stays the best."""
    tried: list[tuple[HeadRecord, Head]] = []
    highest: tuple[float, ...] = (-np.inf, -np.inf)
    for freedom in freedoms:
        record, head = _try(seen, freedom)
        if record.val_loss is None:  # nobody can tell which is best
            record, head = _try(seen, FREEDOM)
        record = replace(record, best=record.rank > highest)
        highest = max(highest, record.rank)
        run.on_record(record)
        tried.append((record, head))
        if record.val_loss is None:
            break
    return tried


def _try(seen: _Seen, freedom: float) -> tuple[HeadRecord, Head]:
    started = time.perf_counter()
    head = fit_head(*seen.taught, freedom)
    val = np.flatnonzero(seen.parts == "val")
    told = _Told.by(head, seen, val) if len(val) else _crossed(seen, freedom)
    targets = seen.targets[told.rows]
    metrics = evaluate(told.probabilities, targets, seen.classes) if len(targets) else None
    record = HeadRecord(
        freedom=freedom,
        train_loss=head.loss(*seen.taught),
        val_loss=metrics.log_loss if metrics else None,
        val_accuracy=metrics.accuracy if metrics else None,
        val_auc=metrics.auc if metrics else None,
        seconds=time.perf_counter() - started,
        best=False,
    )
    return record, head
