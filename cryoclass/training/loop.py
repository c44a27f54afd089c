"""The training loop, read from top to bottom: :func:`fit` over epochs, :func:`_train` over batches."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.classifier import Classifier
from cryoclass.embedding import Vectors, fit_space
from cryoclass.errors import CryoclassError, ParticleError
from cryoclass.machine import computing_in
from cryoclass.preparation import Preparer
from cryoclass.progress import Track, silent
from cryoclass.settings import Recipe
from cryoclass.sources import Source
from cryoclass.tasks import CLASSIFY, Said, Task
from cryoclass.training.augmentation import draw, resample
from cryoclass.training.boxes import KeptBoxes, read_boxes
from cryoclass.training.checkpoint import load_checkpoint, save_checkpoint
from cryoclass.training.head import fit_head
from cryoclass.training.history import EpochRecord, Hear, History, Record, rank
from cryoclass.training.recipes import learning_rate

Weights = dict[str, Tensor]
KEYS = {"classifier", "optimizer", "records", "best"}  # of a checkpoint


@dataclass(frozen=True, kw_only=True)
class LabelledBoxes:
    """Particles with known classes.

    Parameters
    ----------
    source
        Where the voxels of a row come from.
    labels
        Class number of each row, from 0; -1 where unlabelled. Shape (n,).
    parts
        ``"train"``, ``"val"``, ``"test"``, or ``""`` for rows that take no part. Shape (n,).
    classes
        Name of each class.
    """

    source: Source
    labels: NDArray[np.integer]
    parts: NDArray[np.str_]
    classes: tuple[str, ...]


def _nobody(_record: Record) -> None:
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
    folder
        Where ``checkpoint.pt`` is kept; nowhere where None.
    resume
        Go on from the checkpoint in ``folder``, if there is one.
    keep_last
        End with the last epoch, not the best one: for those who have no particles to choose by.
    memory
        Bytes that voxels may take; a quarter of the available memory where None.
    workers
        Threads that read.
    facts
        What else must be the same for the run to be resumed: where boxes come from and how they are cut.
    track, on_record
        Hear about the progress within each epoch, and of each line of the history.
    """

    device: torch.device
    seed: int = 0
    folder: Path | None = None
    resume: bool = False
    keep_last: bool = False
    memory: int | None = None
    workers: int = 1
    facts: Mapping[str, object] = field(default_factory=dict)
    track: Track = silent
    on_record: Hear = _nobody


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every step of the work needs; ``targets`` (n, ...) of each task belong to the particles of ``boxes``, ``labels`` to all rows."""

    classifier: Classifier
    preparer: Preparer
    boxes: KeptBoxes
    targets: Mapping[str, Tensor]
    labels: NDArray[np.integer]
    classes: tuple[str, ...]
    recipe: Recipe
    run: Run

    @property
    def first(self) -> Task:
        """The task whose scores order the epochs."""
        return self.classifier.tasks[0]


@dataclass(kw_only=True)
class _Progress:
    """What changes from epoch to epoch beside the classifier and the optimizer."""

    records: list[EpochRecord] = field(default_factory=list)
    best: Weights = field(default_factory=dict)

    @property
    def best_rank(self) -> tuple[float, ...]:
        return max(map(rank, self.records), default=(0.0, -math.inf))


def fit(classifier: Classifier, examples: LabelledBoxes, recipe: Recipe, run: Run) -> History:
    """Train ``classifier`` in place; it ends with the weights of the epoch with the best validation AUC, or the last.

    Every epoch is seeded on its own, by ``run.seed`` and its number, so that a resumed run needs no old generators.
    Dropout draws from torch's global generator, which is seeded as well.

    Raises
    ------
    ParticleError
        Too few particles can be read.
    ModelError, UsageError
        The checkpoint to resume from is damaged, or belongs to another run.
    CryoclassError
        The loss is no longer a number, or the GPU has too little memory.
    """
    boxes = read_labelled(examples, run)
    parts = examples.parts[boxes.rows]
    train, val = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "val")
    to_device(classifier, run.device)
    optimizer = _optimizer(classifier, recipe)
    bench = _Bench(
        classifier=classifier,
        preparer=Preparer(recipe.preparation).to(run.device),
        boxes=boxes,
        targets={
            task.name: task.target(examples.labels[boxes.rows]).to(run.device) for task in classifier.tasks
        },
        labels=examples.labels,
        classes=examples.classes,
        recipe=recipe,
        run=run,
    )
    settings = _settings(classifier, examples, boxes, recipe, run)
    progress = _resumed(classifier, optimizer, settings, run)
    if recipe.head_first and not progress.records:
        _keep(bench, progress, val, _start_head(bench, train))
        run.on_record(progress.records[-1])
    last = progress.records[-1].epoch if progress.records else 0
    for epoch in range(last, recipe.epochs):
        _keep(bench, progress, val, _train(bench, optimizer, train, epoch))
        _save(classifier, optimizer, progress, settings, run)
        run.on_record(progress.records[-1])

    classifier.load_state_dict(progress.best)
    return _history(bench, progress, np.flatnonzero(parts != "train"))


def read_labelled(examples: LabelledBoxes, run: Run) -> KeptBoxes:
    """Read the particles that take part, and hold that enough of them can be read.

    Raises
    ------
    ParticleError
        Too few can.
    """
    labelled = np.flatnonzero((examples.labels >= 0) & (examples.parts != ""))
    boxes = read_boxes(examples.source, labelled, run.memory, run.workers, run.track)
    _check_enough(examples, boxes)
    return boxes


def to_device(classifier: Classifier, device: torch.device) -> None:
    """Move a classifier in place, in the memory layout that is fastest there."""
    classifier.to(device)
    if device.type == "cuda":
        classifier.to(memory_format=torch.channels_last_3d)  # tensor cores; on a CPU it slows the way back


class _Epoch(NamedTuple):
    """What an epoch did, before it is scored: its number, mean loss, last learning rate, and when it began."""

    epoch: int
    loss: float
    rate: float
    started: float


def _keep(bench: _Bench, progress: _Progress, val: NDArray[np.int64], done: _Epoch) -> None:
    """Score an epoch on the validation particles, write it down, and keep its weights where they are the best so far."""
    said = _predict(bench, val)
    _check_finite(said, done)
    metrics = bench.first.score(said, bench.labels[bench.boxes.rows[val]], bench.classes)
    record = EpochRecord(
        epoch=done.epoch,
        lr=done.rate,
        train_loss=done.loss,
        val_loss=metrics.log_loss,
        val_accuracy=metrics.accuracy,
        val_auc=metrics.auc,
        seconds=time.perf_counter() - done.started,
        best=False,
    )
    record = replace(
        record, best=bench.run.keep_last or rank(record) >= progress.best_rank
    )  # the later of equals
    progress.records.append(record)
    if record.best:
        weights = bench.classifier.state_dict()
        progress.best = {name: value.detach().cpu().clone() for name, value in weights.items()}


def _optimizer(classifier: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay."""
    weights = classifier.parameters()
    return torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _start_head(bench: _Bench, train: NDArray[np.int64]) -> _Epoch:
    """Fit the head to the embeddings of the backbone as it is; epoch 0, and the best one where no later one is better."""
    started = time.perf_counter()
    classifier = bench.classifier
    embedding = embed_boxes(classifier, bench.boxes, bench.recipe, bench.run)[train]
    space = fit_space(embedding, natural_units=classifier.backbone.facts.natural_units)
    features, targets = space.place(embedding), bench.targets[CLASSIFY.name].cpu().numpy()[train]
    head = fit_head(features, targets)
    head.write_to(classifier.head, space)
    return _Epoch(0, head.loss(features, targets), 0.0, started)


def _train(bench: _Bench, optimizer: torch.optim.Optimizer, train: NDArray[np.int64], epoch: int) -> _Epoch:
    """Show every training particle once."""
    started = time.perf_counter()
    classifier, boxes, recipe, run = bench.classifier, bench.boxes, bench.recipe, bench.run
    generator = _seed(run.seed, epoch)
    total, rate = torch.zeros((), device=run.device), recipe.lr
    classifier.train()
    if recipe.freeze_norm:
        _hold_statistics(classifier)
    batches = _batches(train, recipe.batch_size, generator)
    stream = run.track(boxes.stream(batches), f"Epoch {epoch + 1}/{recipe.epochs}", len(train), _size)
    for step, (places, raw) in enumerate(stream):
        rate = learning_rate(recipe, epoch + step / len(batches))
        optimizer.param_groups[0]["lr"] = rate
        with memory_explained():
            x = raw.to(run.device, non_blocking=True)
            drawn = draw(len(places), recipe.augmentation, generator)
            x = resample(bench.preparer.grey(x), drawn, recipe.preparation)  # (b, 1, d, h, w)
            loss = _loss(bench, _say(bench, x), places.to(run.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.detach() * len(places)
    return _Epoch(epoch + 1, float(total) / len(train), rate, started)


def _say(bench: _Bench, x: Tensor) -> Said:
    """Return what the heads say of prepared boxes (b, 1, d, h, w), as it is learnt from."""
    with computing_in(bench.run.device):
        said: Said = bench.classifier(x)
    return said


def _loss(bench: _Bench, said: Said, places: Tensor) -> Tensor:
    """Return the loss of all tasks together, for the particles at ``places`` (b,) of the boxes."""
    tasks = bench.classifier.tasks
    losses = [task.loss(said, bench.targets[task.name][places], bench.recipe) for task in tasks]
    return torch.stack(losses).sum()


@torch.no_grad()
def _predict(bench: _Bench, places: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Return the named outputs (m, ...) of the particles at ``places`` (m,) of the boxes."""
    bench.classifier.eval()
    batches = torch.from_numpy(places).split(bench.recipe.batch_size)
    chunks: list[Said] = []
    for _, raw in bench.boxes.stream(batches):
        with memory_explained():
            said = _say(bench, bench.preparer(raw.to(bench.run.device, non_blocking=True)))
            chunks.append({name: value.cpu() for name, value in bench.classifier.finish(said).items()})
    return {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in chunks[0]}


@torch.no_grad()
def embed_boxes(classifier: Classifier, boxes: KeptBoxes, recipe: Recipe, run: Run) -> Vectors:
    """Return what the backbone says of every particle (n, E), each shown once and unchanged."""
    classifier.eval()
    preparer, chunks = Preparer(recipe.preparation).to(run.device), []
    batches = torch.arange(len(boxes.rows)).split(recipe.batch_size)
    stream = run.track(boxes.stream(batches), "Embedding", len(boxes.rows), _size)
    for _, raw in stream:
        with memory_explained(), computing_in(run.device):
            x = preparer(raw.to(run.device, non_blocking=True))
            chunks.append(classifier.backbone(x).float().cpu())
    return torch.cat(chunks).numpy()


def _history(bench: _Bench, progress: _Progress, held_out: NDArray[np.int64]) -> History:
    held_out = held_out[np.argsort(bench.boxes.rows[held_out])]
    return History(
        records=tuple(progress.records),
        skipped=bench.boxes.skipped,
        rows=bench.boxes.rows[held_out],
        said=_predict(bench, held_out),
    )


def _seed(seed: int, epoch: int) -> torch.Generator:
    """Seed torch for one epoch, and return a generator of its own for the order and the augmentation."""
    first, second = np.random.SeedSequence([seed, epoch]).generate_state(2)
    torch.manual_seed(int(first))
    return torch.Generator().manual_seed(int(second))


def _batches(places: NDArray[np.int64], size: int, generator: torch.Generator) -> list[Tensor]:
    """Return shuffled batches; a lone last particle joins the batch before, since BatchNorm needs two."""
    order = torch.from_numpy(places)[torch.randperm(len(places), generator=generator)]
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _hold_statistics(classifier: Classifier) -> None:
    """Let batch normalisation go by what it learnt before: a few particles say too little of their own mean and spread."""
    for part in classifier.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def _size(batch: tuple[Tensor, Tensor]) -> int:
    return len(batch[0])


@contextmanager
def memory_explained(batch_option: str = "--batch-size") -> Iterator[None]:
    """Turn a GPU's lack of memory into an error that says the way out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CryoclassError(
            "The GPU has too little memory for this batch.",
            f"Use a smaller {batch_option} or --input-size, or --device cpu.",
        ) from error


def _check_finite(said: Mapping[str, NDArray[np.float32]], done: _Epoch) -> None:
    if not (np.isfinite(done.loss) and all(np.isfinite(value).all() for value in said.values())):
        raise CryoclassError(
            f"Training failed in epoch {done.epoch}: the loss or an output is no longer a number "
            f"(the learning rate was {done.rate:g}).",
            "Use a lower --lr.",
        )


def _check_enough(examples: LabelledBoxes, boxes: KeptBoxes) -> None:
    """Hold that unreadable particles have left every class something to train on, and something to validate."""
    labels, parts = examples.labels[boxes.rows], examples.parts[boxes.rows]
    wanted = set(examples.labels[examples.parts == "train"]) - {-1}
    lost = [examples.classes[number] for number in sorted(wanted - set(labels[parts == "train"]))]
    if not np.any(parts == "val"):
        lost.append("validation")
    if lost:
        first = "".join(f", the first in row {row}: {why}" for row, why in [*boxes.skipped.items()][:1])
        raise ParticleError(
            f"No readable particle is left for {', '.join(lost)}; {len(boxes.skipped)} could not be read{first}",
            "Mend or remove those particles.",
        )


# ------------------------------------------------------------------------------------------ checkpoint


def _settings(
    classifier: Classifier, examples: LabelledBoxes, boxes: KeptBoxes, recipe: Recipe, run: Run
) -> dict[str, str]:
    """Return what must be the same for a run to be resumed, in words."""
    particles = hashlib.sha256(boxes.rows.tobytes())
    particles.update(examples.labels[boxes.rows].astype(np.int64).tobytes())
    particles.update("".join(examples.parts[boxes.rows]).encode())
    return {
        **{name: str(value) for name, value in recipe.to_dict().items()},
        "weights": str(sum(weight.numel() for weight in classifier.parameters())),
        "seed": str(run.seed),
        "keep_last": str(run.keep_last),
        "classes": ", ".join(examples.classes),
        "boxes": f"{examples.source.box} pixels of {examples.source.angpix:.4g} A",
        **{name: str(value) for name, value in run.facts.items()},
        "particles": particles.hexdigest()[:12],
    }


def _save(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    progress: _Progress,
    settings: dict[str, str],
    run: Run,
) -> None:
    if run.folder is not None:
        state = {
            "classifier": classifier.state_dict(),
            "optimizer": optimizer.state_dict(),
            "records": [asdict(record) for record in progress.records],
            "best": progress.best,
        }
        save_checkpoint(run.folder, state, settings)


def _resumed(
    classifier: Classifier, optimizer: torch.optim.Optimizer, settings: dict[str, str], run: Run
) -> _Progress:
    """Bring classifier and optimizer to where the checkpoint left off; a new start where there is none."""
    state = load_checkpoint(run.folder, KEYS, settings) if run.resume and run.folder is not None else None
    if state is None:
        return _Progress()
    classifier.load_state_dict(state["classifier"])
    optimizer.load_state_dict(state["optimizer"])
    return _Progress(records=[EpochRecord(**record) for record in state["records"]], best=state["best"])
