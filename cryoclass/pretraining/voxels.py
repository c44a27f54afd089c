"""Learning masks and densities from invented species, of which both are known; the backbone stays as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cryoclass.classifier import Classifier
from cryoclass.machine import computing_in
from cryoclass.preparation import Preparer, beam_first
from cryoclass.pretraining.batches import TrueBoxes, check_sizes, draw_true_boxes
from cryoclass.pretraining.loop import Course, Lesson, Period, PretrainingRun, teach
from cryoclass.settings import Invention, Preparation, Pretraining, Recipe, Yardsticks
from cryoclass.tasks import Task
from cryoclass.tasks.dense import NAMES, Mean
from cryoclass.tasks.task import Truth
from cryoclass.training.recovery import measure_recovery

SNR = 0.1  # at which a run is watched
SNRS = (0.3, 0.1, 0.03)  # at which it is measured in the end
SEED = 2**32 - 4  # as for the other held-out species: never met in training
CHUNK = 60  # boxes
SHOWN = ("iou", "correlation")  # when a run has ended


@dataclass(frozen=True, kw_only=True)
class TaughtVoxels:
    """What came out: the history, and scores on held-out species by SNR and name, with their intervals."""

    periods: tuple[Period, ...]
    scores: Mapping[str, Mapping[str, Mean]]
    yardsticks: Yardsticks

    @property
    def in_words(self) -> dict[str, str]:
        """The figures at the SNR at which a run is watched, for people."""
        means, count = (
            self.scores[f"{SNR:g}"],
            self.yardsticks.held_out_species * self.yardsticks.held_out_views,
        )
        return {
            NAMES.get(name, name): f"{means[name]}, {count} boxes at a variance SNR of {SNR}"
            for name in SHOWN
            if name in means
        }


def teach_voxels(
    classifier: Classifier,
    preparation: Preparation,
    settings: Pretraining,
    invention: Invention,
    run: PretrainingRun,
) -> TaughtVoxels:
    """Teach the decoder and the heads of a network, in place, which voxels belong to a particle and what it looks like.

    Raises
    ------
    CryoclassError
        As :func:`cryoclass.pretraining.loop.teach`.
    """
    check_sizes(invention)
    course = Course(settings=settings, invention=invention, run=run)
    lesson = Voxels(classifier, preparation, course)
    periods = teach(lesson, course)
    scores = {f"{snr:g}": lesson.measure(snr) for snr in SNRS}
    return TaughtVoxels(periods=periods, scores=scores, yardsticks=run.yardsticks)


class _Shown(NamedTuple):
    """What the network sees in one step: prepared boxes, the same on their own grid, and what is true of them."""

    x: Tensor
    grey: Tensor
    truth: Mapping[Truth, Tensor]

    def __len__(self) -> int:
        return len(self.x)


class Voxels(Lesson):
    """The lesson of :func:`teach_voxels`.

    Parameters
    ----------
    classifier, preparation
        The network, and what turns boxes into its input.
    course
        How it is taught.
    """

    def __init__(self, classifier: Classifier, preparation: Preparation, course: Course) -> None:
        self.tasks: Sequence[Task] = classifier.tasks
        self.losses = tuple(task.name for task in self.tasks)
        self.network = self.classifier = classifier.to(course.run.device)
        classifier.backbone.requires_grad_(False)
        self.learns: Mapping[str, nn.Module] = classifier.voxel_parts()
        self.preparer = Preparer(preparation).to(course.run.device)
        self.course = course
        self.recipe = Recipe(
            name="pretrain", epochs=1, lr=course.settings.lr
        )  # says nothing to tasks of voxels
        self.held_out = self._held_out(SNR)

    def train(self) -> None:
        """Let batches count in the statistics of what learns."""
        self.classifier.eval()
        for part in self.learns.values():
            part.train()

    def draw(self, snr: tuple[float, float], generator: torch.Generator) -> _Shown:
        """Draw the boxes of a step."""
        settings = self.course.settings
        drawn = draw_true_boxes(settings.species, settings.views, snr, self.course.invention, generator)
        return self._shown(drawn)

    def study(self, shown: _Shown) -> Tensor:
        """Return the loss of each task, (T,)."""
        with computing_in(self.course.run.device):
            said = self.classifier(shown.x, shown.grey)
        losses = (task.loss(said, shown.truth[task.truth], self.recipe) for task in self.tasks)
        return torch.stack(list(losses))

    def together(self, losses: Tensor) -> Tensor:
        """Return the sum."""
        return losses.sum()

    def score(self) -> dict[str, float]:
        """Return the mean of the figures of each task over held-out species, at a variance SNR of 0.1."""
        judged = self._judged(self.held_out)
        return {name: float(values.mean()) for name, values in judged.items()}

    def measure(self, snr: float) -> dict[str, Mean]:
        """Return the figures at an SNR with their 95 % intervals, and the correlation of the raw and the low-passed boxes."""
        shown = self._held_out(snr)
        means = {name: Mean.of(values) for name, values in self._judged(shown).items()}
        recovery = measure_recovery(self._recovered(shown), angpix=1.0)  # of boxes of many pixel sizes
        if recovery is not None:
            means |= {f"correlation_{name}": mean for name, mean in recovery.correlations.items()}
        return means

    @property
    def facts(self) -> Mapping[str, str]:
        """The preparation, and what is learnt."""
        preparation = self.preparer.settings.to_dict()
        return {**{name: str(value) for name, value in preparation.items()}, "learnt": " ".join(self.losses)}

    def _shown(self, drawn: TrueBoxes) -> _Shown:
        grey, axis = self.preparer.grey(drawn.boxes), self.preparer.settings.beam_axis
        truth: dict[Truth, Tensor] = {
            "mask": beam_first(drawn.masks, axis),
            "density": beam_first(drawn.densities, axis),
        }
        return _Shown(self.preparer.resize(grey), grey, truth)

    def _held_out(self, snr: float) -> TrueBoxes:
        """Draw, on the CPU and so always the same, boxes of species that are never trained on."""
        yardsticks, generator = self.course.run.yardsticks, torch.Generator().manual_seed(SEED)
        count, views = yardsticks.held_out_species, yardsticks.held_out_views
        drawn = draw_true_boxes(count, views, (snr, snr), self.course.invention, generator)
        return drawn.to(self.course.run.device)

    @torch.no_grad()
    def _said(self, boxes: TrueBoxes) -> Iterator[tuple[_Shown, dict[str, Tensor]]]:
        """Yield what the network says of boxes, some at a time, and what it was shown."""
        self.classifier.eval()
        for start in range(0, len(boxes), CHUNK):
            rows = slice(start, start + CHUNK)
            shown = self._shown(
                TrueBoxes(boxes=boxes.boxes[rows], masks=boxes.masks[rows], densities=boxes.densities[rows])
            )
            with computing_in(self.course.run.device):
                said = self.classifier(shown.x, shown.grey)
            yield shown, self.classifier.finish(said)

    def _judged(self, boxes: TrueBoxes) -> dict[str, np.ndarray]:
        found: dict[str, list[Tensor]] = {}
        for shown, said in self._said(boxes):
            for task in self.tasks:
                for name, values in task.judge(said, shown.truth[task.truth]).items():
                    found.setdefault(name, []).append(values.cpu())
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}

    def _recovered(self, boxes: TrueBoxes) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for shown, said in self._said(boxes):
            if "density" in said:
                yield shown.grey[:, 0].cpu(), said["density"].cpu(), shown.truth["density"].cpu()
