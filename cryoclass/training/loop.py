"""The training loop, read from top to bottom: :func:`fit` over epochs, :func:`_train` over batches."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.card import EMBEDDING
from cryoclass.classifier import Classifier
from cryoclass.embedding import Vectors, fit_space
from cryoclass.errors import CryoclassError, ParticleError
from cryoclass.familiarity import Learnt
from cryoclass.machine import computing_in, short_of_memory
from cryoclass.metrics import Metrics
from cryoclass.preparation import Preparer, beam_first
from cryoclass.progress import Track, silent
from cryoclass.settings import Recipe
from cryoclass.sources import Source, TaughtSource, lost, too_many_lost
from cryoclass.tasks import CLASSIFY, Said, Scores, Task, Truth
from cryoclass.tasks.dense import VoxelScores
from cryoclass.training.augmentation import AugmentationDraw, draw, resample
from cryoclass.training.balance import Balance
from cryoclass.training.boxes import KeptBoxes, read_boxes
from cryoclass.training.checkpoint import Keeper, Keeping, State, space
from cryoclass.training.head import fit_head
from cryoclass.training.history import GRADE, EpochRecord, Hear, History, Record
from cryoclass.training.recipes import learning_rate, what_counts
from cryoclass.training.splits import TAUGHT
from cryoclass.training.state import EMBEDDED, Epoch, Progress, check_embedded, check_state
from cryoclass.training.trust import (
    NO_TRUST,
    Trust,
    calibrate,
    get_familiar,
    temperature_of,
    unknown_scores,
)

FRESH_RATE = 1e-3  # the least learning rate of decoders, which nobody has taught before
COPIES = 4  # of the weights in a checkpoint: as they are, two moments of Adam, and the best ones


@dataclass(frozen=True, kw_only=True)
class LabelledBoxes:
    """Particles with known classes.

    Parameters
    ----------
    source
        Where the voxels of a row come from.
    labels
        Class number of each row, from 0; -1 where unlabelled. Shape (n,).
    truths
        What is known of the voxels of a row, by the name of the truth: boxes like those of ``source``, NaN where nothing is.
    parts
        ``"train"``, ``"val"``, ``"test"``, ``"crossed"`` for rows that train and are scored by cross-validation, or ``""`` for rows
        that take no part. Shape (n,).
    groups
        Ways to keep rows together in cross-validation, each a number per row (n,): the first that suits is taken.
    classes
        Name of each class.
    """

    source: Source
    labels: NDArray[np.integer]
    parts: NDArray[np.str_]
    classes: tuple[str, ...]
    truths: Mapping[Truth, Source] = field(default_factory=dict)
    groups: tuple[NDArray[np.integer], ...] = ()

    @property
    def taught(self) -> Source:
        """The voxels of a row, and what is known of them."""
        return TaughtSource(self.source, [*self.truths.values()]) if self.truths else self.source


def _nobody(_record: Record) -> None:
    return


def _there_is_space(_needed: int) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Run:
    """How and where to train.

    Parameters
    ----------
    device
        The CPU, or a CUDA device.
    seed
        The same seed gives the same weights on the CPU.
    keeping
        Where checkpoints are kept; the run goes on from those that it finds there.
    keep_last
        End with the last epoch, not the best one: for those who have no particles to choose by.
    memory
        Bytes that voxels may take; a quarter of the available memory where None.
    workers
        Threads that read.
    facts
        What else must be the same for the run to go on: where boxes come from and how they are cut.
    track, on_record
        Hear about the progress within each epoch, and of each line of the history.
    max_unreadable
        Which share of the labelled particles may be unreadable.
    before_work
        Hears, before boxes are read, how many bytes the run will write; may refuse.
    """

    device: torch.device
    seed: int = 0
    keeping: Keeping = Keeping()
    keep_last: bool = False
    memory: int | None = None
    workers: int = 1
    facts: Mapping[str, object] = field(default_factory=dict)
    track: Track = silent
    on_record: Hear = _nobody
    before_work: Callable[[int], None] = _there_is_space
    max_unreadable: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What it takes to embed particles."""

    classifier: Classifier
    boxes: KeptBoxes
    recipe: Recipe
    run: Run
    keeper: Keeper


@dataclass(frozen=True, kw_only=True)
class _Bench(Embedding):
    """What every step of the work needs; ``labels`` (n,) belong to the particles of ``boxes``."""

    preparer: Preparer
    labels: Tensor
    truths: tuple[Truth, ...]
    classes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is learnt."""
        return self.classifier.tasks


class _Shown(NamedTuple):
    """A batch as it is learnt from: ``x`` (b, 1, d, h, w) for the backbone, ``grey`` (b, 1, D, H, W) on the boxes' own grid, and truths."""

    x: Tensor
    grey: Tensor
    truth: Mapping[Truth, Tensor]


@contextmanager
def memory_explained(batch_option: str = "--batch-size") -> Iterator[None]:
    """Turn a lack of memory, of a GPU or of the computer, into an error that says the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = short_of_memory(error)
        if not short:
            raise
        other = "--device cpu" if short == "GPU" else "a computer with more memory"
        raise CryoclassError(
            f"The {short} has too little memory for this batch.",
            f"Use a smaller {batch_option} or --input-size, or {other}.",
        ) from error


@memory_explained()
def fit(classifier: Classifier, examples: LabelledBoxes, recipe: Recipe, run: Run) -> History:
    """Train ``classifier`` in place; it ends with the weights of the epoch with the best validation AUC, or the last.

    Every epoch is seeded on its own, by ``run.seed`` and its number. Dropout draws from torch's global generator, which is
    seeded as well. A run that was killed goes on after its last saved step, with the generators as they were there.

    Raises
    ------
    ParticleError
        Too few particles can be read.
    ModelError, UsageError
        The checkpoints are damaged, or belong to another run.
    CryoclassError
        The loss is no longer a number, or there is too little memory.
    """
    boxes = read_labelled(examples, run)
    parts = examples.parts[boxes.rows]
    train, val = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "val")
    to_device(classifier, run.device)
    balance = Balance(classifier.tasks, recipe.loss_weights).to(run.device)
    optimizer = _optimizer(classifier, balance, recipe)
    bench = _Bench(
        classifier=classifier,
        preparer=Preparer(recipe.preparation).to(run.device),
        boxes=boxes,
        labels=torch.from_numpy(examples.labels[boxes.rows].astype(np.int64)).to(run.device),
        truths=tuple(examples.truths),
        classes=examples.classes,
        recipe=recipe,
        run=run,
        keeper=keeper_of(examples, boxes, recipe, run),
    )
    progress = Progress(classifier=classifier, balance=balance, optimizer=optimizer, device=run.device)
    _go_on(bench, progress, len(train))
    if recipe.head_first and not progress.records:
        _keep(bench, progress, val, _start_head(bench, progress, train))
    while progress.done < recipe.epochs:
        _keep(bench, progress, val, _train(bench, progress, train))
    boxes.check_unchanged()

    classifier.load_state_dict(progress.best)
    return _history(bench, progress, parts)


def _go_on(bench: _Bench, progress: Progress, train_count: int) -> None:
    """Bring everything to where the checkpoint left off; a new start where there is none."""
    classifier, boxes, recipe = bench.classifier, bench.boxes, bench.recipe

    def check(state: State) -> None:
        if EMBEDDED in state and recipe.head_first:
            check_embedded(state, classifier.backbone.width, len(boxes.rows), recipe.batch_size)
        else:
            check_state(state, progress, recipe, train_count)

    found = bench.keeper.find(check)
    if found is not None:
        state, name = found
        progress.go_on(state)
        bench.run.keeping.note(f"going on {progress.in_words(recipe)}, from {name}")


def read_labelled(examples: LabelledBoxes, run: Run) -> KeptBoxes:
    """Read the particles that take part, and hold that enough of them can be read.

    Raises
    ------
    ParticleError
        Too few can, or too many cannot.
    ChangedError
        A file changed meanwhile.
    """
    labelled = np.flatnonzero(examples.parts != "")
    boxes = read_boxes(examples.taught, labelled, run.memory, run.workers, run.track)
    first = "".join(f"The first, in row {row}: {why}" for row, why in [*boxes.skipped.items()][:1])
    problem = too_many_lost(lost(boxes.skipped), len(labelled), run.max_unreadable, first)
    if problem is not None:
        raise problem
    _check_enough(examples, boxes)
    return boxes


def to_device(classifier: Classifier, device: torch.device) -> None:
    """Move a classifier in place, in the memory layout that is fastest there."""
    classifier.to(device)
    if device.type == "cuda":
        classifier.to(memory_format=torch.channels_last_3d)  # tensor cores; on a CPU it slows the way back


class _Done(NamedTuple):
    """What an epoch did, before it is scored: its number, mean loss, last learning rate, the seconds it took, mean loss of each task."""

    epoch: int
    loss: float
    rate: float
    seconds: float
    losses: Mapping[str, float]


def _keep(bench: _Bench, progress: Progress, val: NDArray[np.int64], done: _Done) -> None:
    """Score an epoch on the validation particles, write it down, and keep its weights where they are the best so far."""
    started = time.perf_counter()
    said = _predict(bench, progress, val)
    _check_finite(bench.tasks, said, done)
    labels = bench.labels[torch.from_numpy(val).to(bench.labels.device)].cpu().numpy()
    scores = {task.name: task.score(said, labels, bench.classes) for task in bench.tasks}
    metrics = scores.get(CLASSIFY.name)
    record = EpochRecord(
        epoch=done.epoch,
        lr=done.rate,
        train_loss=done.loss,
        val_loss=_sum(task.cost(scores[task.name]) for task in bench.tasks if scores[task.name]),
        val_accuracy=metrics.accuracy if isinstance(metrics, Metrics) else None,
        val_auc=metrics.auc if isinstance(metrics, Metrics) else None,
        figures=_figures(bench.tasks, done, scores, progress.balance),
        seconds=done.seconds + time.perf_counter() - started,
        best=False,
    )
    best = bench.run.keep_last or record.rank >= progress.best_rank  # the later of equals
    record = replace(record, best=best)
    progress.records.append(record)
    progress.epoch = None
    if record.best:
        weights = bench.classifier.state_dict()
        progress.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
    bench.keeper.end_part(progress.state, last=record.epoch >= bench.recipe.epochs)
    bench.run.on_record(record)


def _figures(
    tasks: Sequence[Task], done: _Done, scores: Mapping[str, Scores | None], balance: Balance
) -> dict[str, float]:
    """Return what is written down of each task; nothing where classes alone are told, of which the record has its own fields."""
    if not any(task.dense for task in tasks):
        return {}
    known = [task for task in tasks if scores[task.name]]
    figures = {GRADE: _sum(task.grade(scores[task.name]) for task in known) / max(len(known), 1)}
    for task in tasks:
        figures[f"train_loss_{task.name}"] = done.losses.get(task.name, 0.0)
        figures[f"weight_{task.name}"] = balance.weights[task.name]
        found = scores[task.name]
        if isinstance(found, VoxelScores):
            figures |= {f"val_{name}": mean.mean for name, mean in found.figures.items()}
    return figures


def _sum(numbers: Iterable[float]) -> float:
    return float(sum(numbers))


def _optimizer(classifier: Classifier, balance: Balance, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay; what begins at random learns as fast as a network that does."""
    if recipe.freeze:
        classifier.backbone.requires_grad_(False)
    weights = [weight for weight in classifier.parameters() if weight.requires_grad]
    fresh = [*classifier.fresh_parameters(), *balance.parameters()]
    known = {id(weight) for weight in fresh}
    groups = [
        {"params": [weight for weight in weights if id(weight) not in known], "pace": 1.0},
        {"params": fresh, "pace": max(1.0, FRESH_RATE / recipe.lr)},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _start_head(bench: _Bench, progress: Progress, train: NDArray[np.int64]) -> _Done:
    """Fit the head to the embeddings of the backbone as it is; epoch 0, and the best one where no later one is better."""
    started = time.perf_counter()
    classifier = bench.classifier
    targets = bench.labels.cpu().numpy()
    train = train[targets[train] >= 0]
    embedding, targets = embed_boxes(bench, progress.embedded)[train], targets[train]
    space = fit_space(embedding, natural_units=classifier.backbone.facts.natural_units)
    features = space.place(embedding)
    head = fit_head(features, targets)
    head.write_to(classifier.head, space)
    progress.embedded = []
    loss = head.loss(features, targets)
    return _Done(0, loss, 0.0, time.perf_counter() - started, {CLASSIFY.name: loss})


def _train(bench: _Bench, progress: Progress, train: NDArray[np.int64]) -> _Done:
    """Show every training particle once, or those that a killed run has left."""
    classifier, recipe, run = bench.classifier, bench.recipe, bench.run
    epoch = progress.begin(train, recipe, run.seed)
    classifier.train()
    if recipe.freeze_norm or recipe.freeze:
        _hold_statistics(classifier.backbone)
    left = epoch.batches[epoch.step :]
    name = f"Epoch {epoch.number + 1}/{recipe.epochs}"
    stream = run.track(bench.boxes.stream(left), name, sum(map(len, left)), _size)
    with bench.keeper.between_steps(progress.state) as step_is_done:
        for places, raw in stream:
            for group in progress.optimizer.param_groups:
                group["lr"] = _rate(recipe, epoch, epoch.step) * group["pace"]
            epoch.total += _step(bench, progress, epoch, places, raw) * len(places)
            epoch.step += 1
            step_is_done()
    rate = _rate(recipe, epoch, len(epoch.batches) - 1)
    together, *each = (epoch.total / len(train)).tolist()
    losses = dict(zip(recipe.tasks, each, strict=True))
    return _Done(epoch.number + 1, together, rate, epoch.seconds, losses)


def _rate(recipe: Recipe, epoch: Epoch, step: int) -> float:
    return learning_rate(recipe, epoch.number + step / len(epoch.batches))


def _step(bench: _Bench, progress: Progress, epoch: Epoch, places: Tensor, batch: Tensor) -> Tensor:
    """Learn from one batch of the particles at ``places`` (b,), as the boxes keep them; return its mean losses (1 + T,)."""
    drawn = draw(len(places), bench.recipe.augmentation, epoch.generator)
    shown = _shown(bench, places, batch, drawn)
    losses = _losses(bench, _say(bench, shown), shown.truth)
    loss = progress.balance(losses)
    progress.optimizer.zero_grad()
    loss.backward()
    progress.optimizer.step()
    return torch.stack([loss, *losses.values()]).detach()


def _shown(bench: _Bench, places: Tensor, batch: Tensor, drawn: AugmentationDraw | None = None) -> _Shown:
    """Prepare the voxels of the particles at ``places`` (b,) and what is known of them, changed by the same draw where there is one."""
    device, preparer, axis = bench.run.device, bench.preparer, bench.recipe.preparation.beam_axis
    batch = batch.to(device, non_blocking=True)
    raw, *known = batch.unbind(1) if bench.truths else (batch,)
    truth: dict[Truth, Tensor] = {"class": bench.labels[places.to(device)]}
    truth |= dict(zip(bench.truths, (beam_first(volume, axis) for volume in known), strict=True))
    grey = preparer.grey(raw)  # (b, 1, D, H, W)
    if drawn is None:
        return _Shown(preparer.resize(grey), grey, truth)
    x = resample(grey, drawn, bench.recipe.preparation)
    if bench.classifier.decoder is None:
        return _Shown(x, grey, truth)
    own = bench.recipe.preparation.replace(input_size=tuple(grey.shape[2:]), depth="resize")
    grey = x if x.shape == grey.shape else resample(grey, drawn, own)
    for name in bench.truths:
        truth[name] = resample(truth[name][:, None], drawn, own)[:, 0]
    return _Shown(x, grey, truth)


def _say(bench: _Bench, shown: _Shown) -> Said:
    """Return what the heads say of prepared boxes, as it is learnt from."""
    with computing_in(bench.run.device):
        said: Said = bench.classifier(shown.x, shown.grey)
    return said


def _losses(bench: _Bench, said: Said, truth: Mapping[Truth, Tensor]) -> dict[str, Tensor]:
    """Return the loss of each task."""
    return {task.name: task.loss(said, truth[task.truth], bench.recipe) for task in bench.tasks}


@torch.no_grad()
def _predict(bench: _Bench, progress: Progress, places: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Return what the tasks keep for their scores (m, ...) of the particles at ``places`` (m,) of the boxes, and their embedding, by name."""
    bench.classifier.eval()
    batches = torch.from_numpy(places).split(bench.recipe.batch_size)
    chunks: list[Said] = []
    with bench.keeper.between_steps(progress.state, timed=False) as batch_is_done:
        for some, batch in bench.boxes.stream(batches):
            shown = _shown(bench, some, batch)
            outputs = bench.classifier.finish(_say(bench, shown))
            judged = [task.judge(outputs, shown.truth[task.truth]) for task in bench.tasks]
            judged.append({EMBEDDING: outputs[EMBEDDING]})
            chunks.append({name: value.cpu() for part in judged for name, value in part.items()})
            batch_is_done()
    return {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in chunks[0]}


@torch.no_grad()
def embed_boxes(work: Embedding, chunks: list[Tensor]) -> Vectors:
    """Return what the backbone says of every particle (n, E), each shown once and unchanged.

    Parameters
    ----------
    work
        Network, boxes, and what keeps what it says.
    chunks
        What it has said of the first particles, whole batches of them; the rest is added.
    """
    classifier, boxes, run = work.classifier.eval(), work.boxes, work.run
    preparer, done = Preparer(work.recipe.preparation).to(run.device), sum(map(len, chunks))
    batches = (
        torch.arange(done, len(boxes.rows)).split(work.recipe.batch_size) if done < len(boxes.rows) else ()
    )
    stream = run.track(boxes.stream(batches), "Embedding", len(boxes.rows) - done, _size)
    with work.keeper.between_steps(lambda: {EMBEDDED: torch.cat(chunks)}) as batch_is_done:
        for _, batch in stream:
            raw = batch if batch.ndim == 4 else batch[:, 0]  # what is known of the voxels stands behind
            with computing_in(run.device):
                x = preparer(raw.to(run.device, non_blocking=True))
                chunks.append(classifier.backbone(x).float().cpu())
            batch_is_done()
    embedded = torch.cat(chunks)
    if done < len(embedded):
        work.keeper.save({EMBEDDED: embedded})
    return embedded.numpy()


def _history(bench: _Bench, progress: Progress, parts: NDArray[np.str_]) -> History:
    """Return what happened, and let answers mean what they say, by the particles that nothing was learnt from."""
    held_out = np.flatnonzero(parts != "train")
    held_out = held_out[np.argsort(bench.boxes.rows[held_out])]
    said, trust = _predict(bench, progress, held_out), NO_TRUST
    if CLASSIFY in bench.tasks:
        said, trust = _trusted(bench, progress, parts, held_out, said)
    return History(
        records=tuple(progress.records),
        skipped=bench.boxes.skipped,
        rows=bench.boxes.rows[held_out],
        said=said,
        trust=trust,
    )


def _trusted(
    bench: _Bench,
    progress: Progress,
    parts: NDArray[np.str_],
    held_out: NDArray[np.int64],
    said: dict[str, NDArray[np.float32]],
) -> tuple[dict[str, NDArray[np.float32]], Trust]:
    """Calibrate the head on the validation particles, and learn how far particles of known classes lie; return what is said then."""
    classifier, labels = bench.classifier, bench.labels.cpu().numpy()
    chosen = parts[held_out] == "val"
    on_val = {name: values[chosen] for name, values in said.items()}
    temperature, count = temperature_of(on_val, labels[held_out[chosen]])
    said = calibrate(classifier.head, said, temperature)
    train = np.flatnonzero((parts == "train") & (labels >= 0))
    val = (parts[held_out] == "val") & (labels[held_out] >= 0)
    embedding = [_predict(bench, progress, train)[EMBEDDING], said[EMBEDDING][val]]
    learnt = Learnt(
        embedding=np.concatenate(embedding),
        targets=np.concatenate([labels[train], labels[held_out[val]]]),
        held_out=np.repeat([False, True], [len(train), val.sum()]),
        natural_units=classifier.backbone.facts.natural_units,
    )
    usual = get_familiar(classifier, learnt, frozen=bench.recipe.freeze)
    said |= unknown_scores(classifier, said[EMBEDDING])
    return said, Trust(
        temperature=temperature, how="validation" if count else "nothing", count=count, usual=usual
    )


def _hold_statistics(backbone: nn.Module) -> None:
    """Let batch normalisation go by what it learnt before: a few particles say too little of their own mean and spread."""
    for part in backbone.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def _size(batch: tuple[Tensor, Tensor]) -> int:
    return len(batch[0])


def _check_finite(tasks: Sequence[Task], said: Mapping[str, NDArray[np.float32]], done: _Done) -> None:
    """Hold that loss and outputs are numbers; figures of a particle whose truth is not known are not, and need not be."""
    outputs = [said[name] for task in tasks for name in task.outputs if name in said]
    if not (np.isfinite(done.loss) and all(np.isfinite(value).all() for value in outputs)):
        raise CryoclassError(
            f"Training failed in epoch {done.epoch}: the loss or an output is no longer a number "
            f"(the learning rate was {done.rate:g}).",
            "Use a lower --lr.",
        )


def _check_enough(examples: LabelledBoxes, boxes: KeptBoxes) -> None:
    """Hold that unreadable particles have left every class something to train on, and something to validate."""
    labels, parts = examples.labels[boxes.rows], examples.parts[boxes.rows]
    wanted = set(examples.labels[np.isin(examples.parts, TAUGHT)]) - {-1}
    there = set(labels[np.isin(parts, TAUGHT)])
    lost = [examples.classes[number] for number in sorted(wanted - there)]
    if np.any(examples.parts == "val") and not np.any(parts == "val"):
        lost.append("validation")
    if lost:
        first = "".join(f", the first in row {row}: {why}" for row, why in [*boxes.skipped.items()][:1])
        raise ParticleError(
            f"No readable particle is left for {', '.join(lost)}; {len(boxes.skipped)} could not be read{first}",
            "Mend or remove those particles.",
        )


# ------------------------------------------------------------------------------------------ checkpoint


def keeper_of(examples: LabelledBoxes, boxes: KeptBoxes, recipe: Recipe, run: Run) -> Keeper:
    """Return what keeps the states of a run; it knows the run by its settings and by the content of its particles."""
    particles = hashlib.sha256(boxes.rows.tobytes())
    particles.update(examples.labels[boxes.rows].astype(np.int64).tobytes())
    particles.update("".join(examples.parts[boxes.rows]).encode())
    settings = {
        **what_counts(recipe),
        "seed": run.seed,
        "keep_last": run.keep_last,
        "classes": ", ".join(examples.classes),
        "boxes": f"{examples.source.box} pixels of {examples.source.angpix:.9g} A",
        **run.facts,
        "particles": particles.hexdigest()[:12],
    }
    words = {name: str(value) for name, value in settings.items()}
    return Keeper(keeping=run.keeping, settings=words, place={"device": str(run.device)})


def bytes_to_write(classifier: Classifier, examples: LabelledBoxes, recipe: Recipe, run: Run) -> int:
    """Return what a run will write at most: its checkpoints and the weights."""
    if run.keeping.folder is None:
        return 0
    weights: int = sum(value.nbytes for value in classifier.state_dict().values())
    embedded = 4 * int((examples.parts != "").sum()) * classifier.backbone.width
    state = max(
        0 if recipe.at_once else COPIES * weights, embedded if recipe.at_once or recipe.head_first else 0
    )
    return space(state, run.keeping.folder) + weights
