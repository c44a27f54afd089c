"""Backbone and heads, the model folder that holds them, and the whole way from raw voxels to probabilities."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from cryoclass.backbones.packaged import VOXEL_MODEL, packaged_card, voxel_card, voxel_weights
from cryoclass.backbones.registry import build_backbone, load_backbone, spec
from cryoclass.card import (
    EMBEDDING,
    MODEL_FOLDER,
    PARTICLES,
    Axes,
    ModelCard,
    check_said,
    read_card,
    read_folder,
    with_classes,
    write_folder,
)
from cryoclass.errors import ModelError, UsageError
from cryoclass.familiarity import UNKNOWN_SCORE, Familiarity
from cryoclass.files import digest
from cryoclass.preparation import Preparer
from cryoclass.progress import Track, silent
from cryoclass.settings import Init
from cryoclass.tasks import CLASSIFY, Features, Said, Task, task_named

DECODER = "decoder"

# -------------------------------------------------------------------------------------------- networks


class Classifier(nn.Module):
    """A backbone with a head for each task, randomly initialised.

    Parameters
    ----------
    backbone_name
        A key of the registry.
    classes
        How many classes, K.
    tasks
        What it shall say.

    Attributes
    ----------
    familiarity
        What tells how unlike everything learnt a particle is, with the classes; None where nobody knows.
    brought
        Names of the parts that speak of voxels and come from a donor: ``decoder``, and tasks.

    Raises
    ------
    UsageError
        The backbone is not known, or hands out no feature maps and a task needs them.
    """

    brought: frozenset[str] = frozenset()

    def __init__(self, backbone_name: str, classes: int, tasks: Sequence[Task] = (CLASSIFY,)) -> None:
        super().__init__()
        self.backbone_name = backbone_name
        self.backbone = build_backbone(backbone_name)
        self.tasks = tuple(tasks)
        self.decoder = self.backbone.make_decoder() if any(task.dense for task in tasks) else None
        self.heads = nn.ModuleDict({task.name: self._head(task, classes) for task in tasks})
        self.familiarity: Familiarity | None = None

    @property
    def head(self) -> nn.Linear:
        """The head that tells classes."""
        return cast(nn.Linear, self.heads[CLASSIFY.name])

    @property
    def outputs(self) -> dict[str, Axes]:
        """The axes of the named outputs that the whole model gives: those of the tasks in turn, the unknown score, the embedding."""
        unknown: dict[str, Axes] = {UNKNOWN_SCORE: (PARTICLES,)} if self.familiarity is not None else {}
        return {**outputs_of(self.tasks), **unknown, EMBEDDING: (PARTICLES, self.backbone.width)}

    def forward(self, x: Tensor, grey: Tensor) -> Said:
        """Return what the heads say of boxes, as it is learnt from, and the embedding.

        Parameters
        ----------
        x
            Prepared boxes ``(N, 1, d, h, w)``, as the backbone sees them.
        grey
            The same boxes on their own grid ``(N, 1, D, H, W)``, where masks and densities are.
        """
        features = self._features(x, grey)
        said = {EMBEDDING: features.vector}
        for task in self.tasks:
            said |= task.say(self.heads[task.name], features)
        return said

    def finish(self, said: Said) -> Said:
        """Return all named outputs, float32, from what :meth:`forward` returns."""
        finished = {EMBEDDING: said[EMBEDDING].float()}
        if self.familiarity is not None:
            finished[UNKNOWN_SCORE] = self.familiarity(said[EMBEDDING])
        for task in self.tasks:
            finished |= task.finish(said)
        return finished

    def asked(self, tasks: Sequence[Task]) -> "Classifier":
        """Return the same network, with the same weights, asked for some of its tasks only."""
        part = copy.copy(self)
        part._modules = dict(self._modules)
        part.tasks = tuple(task for task in self.tasks if task in tasks)
        part.heads = nn.ModuleDict({task.name: self.heads[task.name] for task in part.tasks})
        part.decoder = self.decoder if any(task.dense for task in part.tasks) else None
        part.familiarity = self.familiarity if CLASSIFY in part.tasks else None
        return part

    def voxel_parts(self) -> dict[str, nn.Module]:
        """Return all that speaks of voxels, which no backbone brings along: the decoder, and heads by task."""
        if self.decoder is None:
            return {}
        return {DECODER: self.decoder} | {
            task.name: self.heads[task.name] for task in self.tasks if task.dense
        }

    def fresh_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of those of them that no donor has brought either."""
        for name, part in self.voxel_parts().items():
            if name not in self.brought:
                yield from part.parameters()

    def _head(self, task: Task, classes: int) -> nn.Module:
        if self.decoder is not None and task.dense:
            return task.make_head(self.decoder.width, classes, self.decoder.fold)
        return task.make_head(self.backbone.width, classes)

    def _features(self, x: Tensor, grey: Tensor) -> Features:
        if self.decoder is None:
            return Features(self.backbone(x))
        maps = self.backbone.feature_maps(x)
        return Features(self.backbone.pool(maps[-1]), self.decoder(maps, grey), grey.shape[2:])


def outputs_of(tasks: Sequence[Task]) -> dict[str, Axes]:
    """Return the axes of the named outputs of tasks, in turn."""
    return {name: axes for task in tasks for name, axes in task.outputs.items()}


class WholeModel(nn.Module):
    """Raw voxels in, named outputs out: the module that the torch engine runs and that is exported.

    Parameters
    ----------
    classifier
        The network.
    card
        Its card; says what turns boxes into its input, and the order of the outputs.
    """

    def __init__(self, classifier: Classifier, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        self.preparer = Preparer(card.preparation)
        self.classifier = classifier

    def forward(self, raw: Tensor) -> Said:
        """Turn raw float32 voxels ``(N, D, H, W)`` of any box into float32 outputs by name, in the card's order.

        Grey values and what the tasks make of their heads are computed in float32, whatever the type of the weights.
        """
        weight, grey = next(self.classifier.parameters()), self.preparer.grey(raw)
        said = self.classifier(self.preparer.resize(grey).to(weight.dtype), grey)
        finished = self.classifier.finish(said)
        for task in self.classifier.tasks:
            if task.dense:
                finished |= {name: self.preparer.as_given(finished[name]) for name in task.outputs}
        return {name: finished[name] for name in self.card.outputs}

    def asked(self, tasks: Sequence[Task]) -> "WholeModel":
        """Return the same model, asked for some of its tasks only."""
        return WholeModel(self.classifier.asked(tasks), asked_of(self.card, tasks))


def asked_of(card: ModelCard, tasks: Sequence[Task]) -> ModelCard:
    """Return the card of a model that is asked for some of its tasks only."""
    kept = [task for task in tasks if task.name in card.tasks]
    dropped = outputs_of([task_named(name) for name in card.tasks]).keys() - outputs_of(kept).keys()
    dropped |= set() if CLASSIFY in kept else {UNKNOWN_SCORE}
    outputs = {name: axes for name, axes in card.outputs.items() if name not in dropped}
    return card.replace(outputs=outputs, tasks=tuple(task.name for task in kept))


def start_classifier(
    classifier: Classifier,
    *,
    init: Init | Path = "auto",
    weights: Path | None = None,
    as_pretrained: bool = False,
    track: Track = silent,
) -> Classifier:
    """Give a classifier what it is to be fine-tuned from, and return it; all else stays random.

    Parameters
    ----------
    classifier
        Randomly initialised; its backbone is replaced.
    init, weights, as_pretrained, track
        As for :func:`cryoclass.backbones.registry.load_backbone`; ``init`` may also be a model folder, whose backbone
        is taken over, and so are its decoder and its heads for voxels where both classifiers have them. The head for
        classes is not: they may be others. ``auto`` takes those of the model that comes with cryoclass, where it has the same
        backbone.

    Raises
    ------
    UsageError, ModelError
        The weights cannot be had.
    """
    if not isinstance(init, Path):
        classifier.backbone = load_backbone(
            classifier.backbone_name, init=init, weights=weights, as_pretrained=as_pretrained, track=track
        )
        learnt = init == "auto" and weights is None and classifier.backbone_name == voxel_card().backbone
        if learnt and classifier.decoder is not None:
            _take_over(classifier, *_packaged(), VOXEL_MODEL)
    elif weights is None:
        _take_over(classifier, *load_model(init), str(init))
    else:
        raise UsageError(f"--init {init} and --weights contradict each other.", "Leave one of them out.")
    return classifier


def _take_over(classifier: Classifier, donor: Classifier, card: ModelCard, name: str) -> None:
    given, wanted = donor.voxel_parts(), classifier.voxel_parts()
    try:
        classifier.backbone.load_state_dict(donor.backbone.state_dict(), strict=True)
        classifier.backbone.facts = donor.backbone.facts
    except RuntimeError as error:
        raise ModelError(
            f"{name} holds a {card.backbone}, which does not fit the backbone that was asked for.",
            f"Use --backbone {card.backbone}.",
        ) from error
    classifier.brought = frozenset(given.keys() & wanted.keys())
    for part in classifier.brought:
        wanted[part].load_state_dict(given[part].state_dict(), strict=True)


# ---------------------------------------------------------------------------------------- model folder


def save_model(folder: Path, classifier: Classifier, card: ModelCard) -> ModelCard:
    """Write the weights and the card of a classifier into a folder, and return the card as written.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    return write_folder(folder, classifier.state_dict(), card, MODEL_FOLDER)


def load_model(folder: Path) -> tuple[Classifier, ModelCard]:
    """Read a model folder: the classifier, on the CPU, in evaluation mode, and its card.

    The name :data:`cryoclass.backbones.packaged.VOXEL_MODEL` stands for the model that comes with cryoclass, where there is no
    folder of that name.

    Raises
    ------
    ModelError
        A file is missing, damaged, or not the one that belongs to the other.
    """
    if _is_packaged(folder):
        return _packaged()
    state, card = read_folder(folder, ModelCard, MODEL_FOLDER)
    classifier = _build_for(card, folder)
    classifier.familiarity = _familiarity_for(state)
    try:
        classifier.load_state_dict(_heads_named(state), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder / MODEL_FOLDER.weights} does not hold a {card.backbone} with {len(card.classes)} classes, as "
            f"{MODEL_FOLDER.card} says: {reason}",
            "Copy the whole model folder again, or run cryoclass finetune again.",
        ) from error
    check_said(with_classes(classifier.outputs, len(card.classes)), card, str(folder))
    classifier.backbone.facts = card.facts
    return classifier.eval(), card


def load_card(folder: Path) -> ModelCard:
    """Read the card of a model folder alone; names as for :func:`load_model`.

    Raises
    ------
    ModelError
        No model folder, or a card that is damaged.
    """
    return voxel_card() if _is_packaged(folder) else read_card(folder, ModelCard, MODEL_FOLDER)


def _is_packaged(folder: Path) -> bool:
    return str(folder) == VOXEL_MODEL and not folder.exists()


def _packaged() -> tuple[Classifier, ModelCard]:
    """Return the model that comes with cryoclass: decoder and heads of their own on a backbone that comes with it too."""
    card, backbone = voxel_card(), load_backbone(voxel_card().backbone)
    classifier = _build_for(card, Path(VOXEL_MODEL))
    classifier.backbone = backbone
    for name, part in classifier.voxel_parts().items():
        part.load_state_dict(_tensors_of(name))
    # The same decoder on other weights of the backbone would say something else.
    identity = digest(card.weights_sha256, packaged_card(spec(card.backbone)).weights_sha256)
    return classifier.eval(), card.replace(weights_sha256=identity)


def _tensors_of(part: str) -> dict[str, Tensor]:
    """Return the packaged tensors of a part that speaks of voxels, by their names within it."""
    prefix = f"{part}." if part == DECODER else f"heads.{part}."
    return {
        name.removeprefix(prefix): value for name, value in voxel_weights().items() if name.startswith(prefix)
    }


def _heads_named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the head of weights of format 1, which had one only, as it is named now."""
    return {
        f"heads.{CLASSIFY.name}.{name.removeprefix('head.')}" if name.startswith("head.") else name: value
        for name, value in state.items()
    }


def _familiarity_for(state: Mapping[str, Tensor]) -> Familiarity | None:
    """Return an empty one of the sizes that weights have; None where they have none."""
    means, basis = (state.get(f"familiarity.{name}") for name in ("means", "basis"))
    if means is None or basis is None or means.ndim != 2 or basis.ndim != 2:
        return None
    return Familiarity(len(means), means.shape[1], len(basis))


def _build_for(card: ModelCard, folder: Path) -> Classifier:
    try:
        return Classifier(card.backbone, len(card.classes), [task_named(name) for name in card.tasks])
    except (UsageError, ModelError) as error:
        raise ModelError(
            f"{folder / MODEL_FOLDER.card}: {error}",
            "Use the version of cryoclass that made it, or fine-tune again.",
        ) from error
