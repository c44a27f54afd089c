"""Learning shape: saying what a species is like whatever its orientation, and telling which boxes show the same one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cryoclass.backbones.res32 import Res32
from cryoclass.backbones.spec import Backbone
from cryoclass.card import LearntFrom, WeightFacts
from cryoclass.errors import UsageError
from cryoclass.machine import computing_in
from cryoclass.preparation import Preparer
from cryoclass.pretraining.batches import check_sizes, draw_batch, invent
from cryoclass.pretraining.loop import Course, Lesson, Period, PretrainingRun, teach
from cryoclass.pretraining.objective import Tasks
from cryoclass.pretraining.own import altered
from cryoclass.pretraining.retrieval import held_out, retrieval
from cryoclass.pretraining.sharpen import sharpen
from cryoclass.settings import Invention, Preparation, Pretraining, Yardsticks
from cryoclass.simulation.species import describe
from cryoclass.training.boxes import KeptBoxes

OWN_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What came out: the history, the score of the backbone as it is at the end, and on what it was measured."""

    periods: tuple[Period, ...]
    retrieval: float
    yardsticks: Yardsticks


def teach_shape(
    backbone: Backbone,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    run: PretrainingRun,
) -> Pretrained:
    """Teach a backbone, in place, what species are like, and which boxes show the same one.

    In the end it knows what it has learnt from (:attr:`cryoclass.backbones.spec.Backbone.facts`).

    Raises
    ------
    CryoclassError
        As :func:`cryoclass.pretraining.loop.teach`.
    """
    _check_boxes(preparation, invention, run.own)
    course = Course(settings=settings, invention=invention, run=run)
    lesson = Shape(backbone, preparation, course)
    periods = teach(lesson, course)
    if run.own is not None:
        run.own.check_unchanged()
    backbone.facts = WeightFacts(learnt_from=learnt_from(preparation, invention, run.own))
    if isinstance(backbone, Res32):
        sharpen(backbone, lesson.preparer, invention, run.yardsticks, run.device, settings.steps)
    return Pretrained(periods=periods, retrieval=lesson.score()["retrieval"], yardsticks=run.yardsticks)


def _check_boxes(preparation: Preparation, invention: Invention, own: KeptBoxes | None) -> None:
    """Refuse, before anything is computed, boxes that would end the run somewhere on its way."""
    check_sizes(invention)
    if own is not None and preparation.depth == "keep" and own.source.box != invention.box:
        raise UsageError(
            f"--depth keep leaves your boxes {own.source.box} slices and the invented ones {invention.box}.",
            "Use --depth resize.",
        )


def learnt_from(preparation: Preparation, invention: Invention, own: KeptBoxes | None = None) -> LearntFrom:
    """Return what was shown: the voxels of the network's grid, and bright particles."""
    width = preparation.input_size[2]
    voxels = [angpix * invention.box / width for angpix in invention.pixel_range]
    if own is not None:
        voxels.append(own.source.angpix * own.source.box / width)
    return LearntFrom(pixel_range=(min(voxels), max(voxels)), contrast="bright")


class _Shown(NamedTuple):
    """What the network sees in one step: input (N, 1, d, h, w), number of the species (N,), description (N, F)."""

    x: Tensor
    species: Tensor
    description: Tensor

    def __len__(self) -> int:
        return len(self.x)


class Shape(Lesson):
    """The lesson of :func:`teach_shape`; draws its heads from torch's own generator, seeded anew.

    Parameters
    ----------
    backbone, preparation
        The network, and what turns boxes into its input.
    course
        How it is taught.
    """

    losses = ("describe", "contrast")

    def __init__(self, backbone: Backbone, preparation: Preparation, course: Course) -> None:
        settings, run = course.settings, course.run
        torch.manual_seed(settings.seed)
        spread = _spread(settings.seed, course.invention, run.yardsticks.reference)
        self.tasks = Tasks(backbone.width, *spread).to(run.device)
        self.network = self.backbone = backbone
        backbone.to(run.device).to(memory_format=torch.channels_last_3d)
        self.learns: Mapping[str, nn.Module] = {"backbone": backbone, "tasks": self.tasks}
        self.preparer = Preparer(preparation).to(run.device)
        self.course = course
        self.held_out = held_out(course.invention, run.yardsticks).to(run.device)

    def train(self) -> None:
        """Let batches count in the statistics of the backbone."""
        self.backbone.train()

    def draw(self, snr: tuple[float, float], generator: torch.Generator) -> _Shown:
        """Draw the boxes of a step, the user's own among them, and make network input of them."""
        settings, invention, own = self.course.settings, self.course.invention, self.course.run.own
        device = self.course.run.device
        batch = draw_batch(settings.species, settings.views, snr, invention, generator)
        x, description = self.preparer(batch.boxes.flatten(0, 1)), batch.description
        if own is not None:
            count = max(1, round(OWN_SHARE * settings.species))
            chosen = torch.randint(len(own.rows), (count,), generator=generator, device=device).cpu()
            views = altered(own.read(chosen).to(device), settings.views, invention, generator)
            x = torch.cat([x, self.preparer(views.flatten(0, 1))])
            unknown = description.new_full((count, description.shape[1]), torch.nan)
            description = torch.cat([description, unknown])
        number = torch.arange(len(description), device=device).repeat_interleave(settings.views)
        return _Shown(x, number, description[number])

    def study(self, shown: _Shown) -> Tensor:
        """Return both losses, (2,)."""
        settings = self.course.settings
        with computing_in(self.course.run.device):
            vectors = self.backbone(shown.x.contiguous(memory_format=torch.channels_last_3d))
        temperature = settings.temperature if settings.contrast else None
        return torch.stack(self.tasks(vectors.float(), shown.species, shown.description, temperature))

    def together(self, losses: Tensor) -> Tensor:
        """Return the sum by the weights of the settings."""
        return self.course.settings.describe * losses[0] + self.course.settings.contrast * losses[1]

    def score(self) -> dict[str, float]:
        """Return the retrieval, see :func:`cryoclass.pretraining.retrieval.retrieval`."""
        return {"retrieval": retrieval(self.backbone, self.preparer, self.held_out)}

    @property
    def facts(self) -> Mapping[str, str]:
        """The preparation, and how many particles of the user's take part."""
        own, preparation = self.course.run.own, self.preparer.settings.to_dict()
        count = "none" if own is None else str(len(own.rows))
        return {**{name: str(value) for name, value in preparation.items()}, "own particles": count}


def _spread(seed: int, invention: Invention, species: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of descriptions over many species, drawn on the CPU whatever the device."""
    generator = torch.Generator().manual_seed(seed)
    described = []
    for _ in range(10):
        drawn, angpix = invent(species // 10, invention, generator)
        described.append(describe(drawn, angpix * invention.box / 32))
    every = torch.cat(described)
    return every.mean(0), every.std(0)
