"""Fine-tuning from labelled particles to a scored classifier."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoclass.backbones.registry import facts_of_weights, spec
from cryoclass.backbones.resnet3d import detach_shortcuts
from cryoclass.calibration import at_temperature
from cryoclass.card import ModelCard, WeightFacts, current_versions
from cryoclass.classifier import Classifier, WholeModel, load_card, start_classifier
from cryoclass.errors import UsageError
from cryoclass.files import content
from cryoclass.machine import computing_in
from cryoclass.metrics import Metrics, evaluate
from cryoclass.settings import Init, Recipe, Start, Training
from cryoclass.sources import read_many
from cryoclass.tasks import CLASSIFY, RECOVER, SEGMENT, Task, task_named, tasks_typed
from cryoclass.tasks.dense import VoxelScores
from cryoclass.training.frozen import fit_frozen
from cryoclass.training.history import HeadRecord, History
from cryoclass.training.loop import LabelledBoxes, Run, bytes_to_write, fit
from cryoclass.training.recipes import recipe as named_recipe
from cryoclass.training.recipes import what_counts
from cryoclass.training.recovery import RecoveryScores, measure_recovery
from cryoclass.training.splits import CROSSED, PARTS
from cryoclass.volumes.contrast import Contrast

SCORED = ("test", CROSSED, "val")  # parts, the one that counts first
NOTHING = 0.05  # intersection over union, below which masks are of no use to anybody


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """What came out.

    Attributes
    ----------
    classifier
        With the weights of the history's best record.
    card
        Everything that is needed to use it.
    parts
        Which particle took which part (n,); empty for those that took none.
    history
        What training did, and what it says of the particles that it did not see.
    metrics
        Scores of the classes by part: ``val``, and ``test`` where something was held out; empty where no classes are told.
    voxels
        Scores of the tasks that speak of voxels, by part and task.
    recovery
        What else is known of the densities of the part that counts; None where none are recovered.
    recipe
        As it was used.
    """

    classifier: Classifier
    card: ModelCard
    parts: NDArray[np.str_]
    history: History
    metrics: dict[str, Metrics]
    voxels: dict[str, dict[str, VoxelScores]]
    recovery: RecoveryScores | None
    recipe: Recipe

    @property
    def scored_part(self) -> str:
        """The part whose scores count: ``test`` where there is one; ``crossed`` where all particles were learnt from."""
        return next((part for part in SCORED if part in self.metrics or part in self.voxels), "val")

    @property
    def scores(self) -> Metrics | None:
        """The scores of the classes that count; None where no classes are told."""
        return self.metrics.get(self.scored_part)

    @property
    def scored_count(self) -> int:
        """How many particles they were measured on."""
        return int((self.parts[self.history.rows] == self.scored_part).sum())

    @property
    def written_scores(self) -> dict[str, dict[str, Any]]:
        """All scores of each part as plain values: those of the classes, and those of each other task under its name."""
        parts = [*dict.fromkeys((*self.metrics, *self.voxels))]
        written = {part: self.metrics[part].to_dict() if part in self.metrics else {} for part in parts}
        for part, tasks in self.voxels.items():
            written[part] |= {name: found.to_dict() for name, found in tasks.items()}
        if self.recovery is not None:
            written[self.scored_part]["recovery"] = self.recovery.to_dict()
        return written

    @property
    def voxels_in_words(self) -> dict[str, str]:
        """The scores that count of the tasks that speak of voxels."""
        found = self.voxels.get(self.scored_part, {}).values()
        words = {name: text for scores in found for name, text in scores.in_words.items()}
        return words | (self.recovery.in_words if self.recovery else {})

    @property
    def measured_on(self) -> str:
        """What those were measured on, in words that follow the number of particles."""
        if not self.scored_count:
            return "particles: one label of a class says nothing of others"
        if self.scored_part == CROSSED:
            return "labelled particles, each by a head that was fitted to others (cross-validation)"
        seen = "never seen"
        if self.scored_part == "val":
            seen = f"which chose the {self.history.best.kind}: held-out particles would score lower"
        return f"{self.scored_part} particles, {seen}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the course of the training adds to the caveats of its scores, as sentences."""
        return (*self._about_masks, *self._about_classes)

    @property
    def _about_masks(self) -> tuple[str, ...]:
        found = self.voxels.get(self.scored_part, {}).get(SEGMENT.name)
        if found is None or SEGMENT.grade(found) >= NOTHING:
            return ()
        return (
            f"The masks hold next to nothing of the particles (IoU {SEGMENT.grade(found):.3f}): the training has not begun to "
            "find them; try more --epochs.",
        )

    @property
    def _about_classes(self) -> tuple[str, ...]:
        if self.scores is None or self.scores.above_guessing:
            return ()
        last = self.history.records[-1]
        loss = last.figures.get("train_loss_classify", last.train_loss)
        guessing = math.log(len(self.card.classes))
        if loss < guessing:
            return ()
        return (
            f"The training loss, {loss:.3g} at the end, is no lower than that of guessing, {guessing:.3g}: the training "
            "has diverged, or has not begun to learn; try a smaller --lr, or more --epochs.",
        )


def choose_recipe(start: Start, training: Training) -> Recipe:
    """Return the named recipe for this kind of start, with the user's own numbers in it.

    With ``freeze``, and where no intensity was typed, the network is shown the grey values of its training.
    """
    name = training.recipe
    if name == "auto":
        name = "few" if spec(start.backbone).made_for_boxes and _is_pretrained(start) else "paper"
    recipe = named_recipe(name, "pretrained" if _is_pretrained(start) else "random")
    own = {name: getattr(training, name) for name in ("epochs", "batch_size", "lr")}
    recipe = recipe.replace(**{name: value for name, value in own.items() if value is not None})
    entry, shown = spec(start.backbone), recipe.preparation
    if training.freeze and _is_pretrained(start):
        # A network that does not learn can use no other grey values than those that it learnt from.
        shown = shown.replace(intensity=entry.intensity)
    preparation = entry.resolve(start, shown)
    tasks = tuple(task.name for task in tasks_typed(training.tasks))
    return recipe.replace(
        freeze=training.freeze,
        # A backbone that stays as it is can be given its head for classes before all else, whatever the recipe.
        head_first="classify" in tasks and (recipe.head_first or (training.freeze and len(tasks) > 1)),
        tasks=tasks,
        loss_weights=training.loss_weights,
        preparation=preparation,
    )


def train(examples: LabelledBoxes, contrast: Contrast, recipe: Recipe, start: Start, run: Run) -> FineTuned:
    """Train a classifier on the particles of the ``train`` part and score it on the others.

    Parameters
    ----------
    examples
        Boxes, their classes and their parts.
    contrast
        Whether their particles are bright or dark; goes onto the card.
    recipe
        From :func:`choose_recipe`.
    start
        The network and what it starts from.
    run
        Device, seed, folder for the checkpoint, progress.

    Raises
    ------
    CryoclassError
        As :func:`cryoclass.classifier.start_classifier` and :func:`cryoclass.training.loop.fit`.
    """
    # The depth of the boxes is known now.
    prepared = spec(start.backbone).prepare(recipe.preparation, examples.source.box)
    recipe = recipe.replace(preparation=prepared)
    classifier = _network(examples, recipe, start, run)
    run = replace(run, facts={**run.facts, **_content_of(start)})
    run.before_work(bytes_to_write(classifier, examples, recipe, run))
    fitting = fit_frozen if recipe.at_once else fit
    history = fitting(classifier, examples, recipe, run)
    metrics, voxels = _score(history, examples, classifier.tasks)
    facts = _training_facts(examples, recipe, start, run, history)
    card = ModelCard(
        backbone=start.backbone,
        classes=examples.classes if CLASSIFY in classifier.tasks else (),
        angpix=examples.source.angpix,
        box=(examples.source.box,) * 3,
        contrast=contrast,
        preparation=recipe.preparation,
        training=facts,
        metrics=_headlines(metrics, voxels),
        calibration=_calibration(history, examples),
        familiarity=history.trust.familiarity,
        versions=current_versions(),
        outputs=classifier.outputs,
        tasks=tuple(classifier.heads),
        natural_units=classifier.backbone.facts.natural_units,
        learnt_from=classifier.backbone.facts.learnt_from,
    )
    tuned = FineTuned(
        classifier=classifier,
        card=card,
        parts=examples.parts,
        history=history,
        metrics=metrics,
        voxels=voxels,
        recovery=None,
        recipe=recipe,
    )
    return replace(tuned, recovery=_recovery(tuned, examples, run)) if RECOVER in classifier.tasks else tuned


def _recovery(tuned: FineTuned, examples: LabelledBoxes, run: Run) -> RecoveryScores | None:
    """Hold the densities of the part that counts against the truth once more: by resolution, and beside the boxes as they are."""
    rows = tuned.history.rows[tuned.parts[tuned.history.rows] == tuned.scored_part]
    whole = WholeModel(tuned.classifier, tuned.card).asked((RECOVER,)).to(run.device).eval()
    place = 1 + list(examples.truths).index("density")

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        read = read_many(examples.taught, rows.tolist(), run.workers)
        good = (found for _, found in read if isinstance(found, np.ndarray))
        while some := list(itertools.islice(good, tuned.recipe.batch_size)):
            volumes = torch.from_numpy(np.stack(some))
            with torch.inference_mode(), computing_in(run.device):
                density = whole(volumes[:, 0].to(run.device))["density"].cpu()
            yield volumes[:, 0], density, volumes[:, place]

    return measure_recovery(batches(), tuned.card.angpix)


def _content_of(start: Start) -> dict[str, Any]:
    """Return what the network starts from, with hashes of the weights in place of where they lie."""
    init, weights = _init(start), start.weights
    return {
        **start.to_dict(),
        "init": load_card(init).weights_sha256[:12] if isinstance(init, Path) else init,
        "weights": content(weights)[:12] if weights else None,
    }


def _network(examples: LabelledBoxes, recipe: Recipe, start: Start, run: Run) -> Classifier:
    torch.manual_seed(run.seed)  # the head, and a random backbone, are drawn from torch's own generator
    tasks = [task_named(name) for name in recipe.tasks]
    classifier = start_classifier(
        Classifier(start.backbone, len(examples.classes), tasks),
        init=_init(start),
        weights=start.weights,
        as_pretrained=recipe.preparation.intensity == "as-pretrained",
        track=run.track,
    )
    if start.legacy_shortcut:
        detach_shortcuts(classifier.backbone)
    return classifier


def facts_of_start(start: Start) -> WeightFacts:
    """Return what is known of the weights to start from, without loading them.

    Raises
    ------
    UsageError, ModelError
        There are no such weights, or a card is damaged.
    """
    init = _init(start)
    if isinstance(init, Path):
        return load_card(init).facts
    return facts_of_weights(start.backbone, init=init, weights=start.weights)


def _is_pretrained(start: Start) -> bool:
    if start.init in ("random", "video"):
        return start.init == "video"
    return start.init != "auto" or start.weights is not None or bool(spec(start.backbone).trained_on)


def _init(start: Start) -> Init | Path:
    folder = start.donor
    if folder is None:
        return cast(Init, start.init)
    if not folder.is_dir():
        raise UsageError(f"--init {start.init} is neither auto, video, random nor a model folder.")
    return folder


def _score(
    history: History, examples: LabelledBoxes, tasks: Sequence[Task]
) -> tuple[dict[str, Metrics], dict[str, dict[str, VoxelScores]]]:
    """Return the scores of the classes by part, and those of the other tasks by part and task, where there are some."""
    metrics: dict[str, Metrics] = {}
    voxels: dict[str, dict[str, VoxelScores]] = {}
    parts = examples.parts[history.rows]
    for part in SCORED:
        chosen = parts == part
        labels = examples.labels[history.rows[chosen]]
        said = {name: values[chosen] for name, values in history.said.items()}
        for task in tasks if chosen.any() else ():
            found = task.score(said, labels, examples.classes)
            if isinstance(found, Metrics):
                metrics[part] = found
            elif isinstance(found, VoxelScores):
                voxels.setdefault(part, {})[task.name] = found
    return metrics, voxels


def _calibration(history: History, examples: LabelledBoxes) -> dict[str, Any]:
    """Return what the card says of the calibration: with its error before and after, on particles that it was not fitted to."""
    facts, chosen = history.trust.calibration, examples.parts[history.rows] == "test"
    if not facts or not chosen.any():
        return facts
    labels = examples.labels[history.rows[chosen]]
    after = history.probabilities[chosen]
    before = at_temperature(after, 1 / history.trust.temperature)
    errors = {
        name: evaluate(said, labels, examples.classes).calibration_error
        for name, said in (("error_before", before), ("error_after", after))
    }
    return {**facts, **errors, "measured_on": int(chosen.sum())}


def _headlines(
    metrics: Mapping[str, Metrics], voxels: Mapping[str, Mapping[str, VoxelScores]]
) -> dict[str, Any]:
    """Return what the card says of the scores of each part."""
    found: dict[str, Any] = {part: _headline(scores) for part, scores in metrics.items()}
    for part, tasks in voxels.items():
        found.setdefault(part, {}).update({name: scores.to_dict() for name, scores in tasks.items()})
    return found


def _headline(metrics: Metrics) -> dict[str, Any]:
    names = ("count", "accuracy", "balanced_accuracy", "macro_f1", "auc", "calibration_error")
    return {name: getattr(metrics, name) for name in names}


def _training_facts(
    examples: LabelledBoxes, recipe: Recipe, start: Start, run: Run, history: History
) -> dict[str, Any]:
    return {
        "counts": {part: int((examples.parts == part).sum()) for part in (*PARTS, CROSSED)},
        "start": start.to_dict(),
        "recipe": what_counts(recipe),
        "seed": run.seed,
        "device": str(run.device),
        **_course(history),
        "unreadable": len(history.skipped),
    }


def _course(history: History) -> dict[str, Any]:
    """Return which record was the best, and of how many: of the epochs, or of the freedoms of a head alone."""
    best = history.best
    if isinstance(best, HeadRecord):
        return {"freedom": best.freedom, "freedoms_tried": [record.at for record in history.records]}
    return {"best_epoch": best.epoch, "epochs": history.records[-1].at}
