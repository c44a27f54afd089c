"""What a task is: all that differs between telling classes and whatever else a network may say of a particle."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone
from cryoclass.card import Axes
from cryoclass.metrics import Metrics
from cryoclass.settings import Recipe

if TYPE_CHECKING:
    from cryoclass.results import Decisions

Said = dict[str, Tensor]
Arrays = Mapping[str, NDArray[np.float32]]
Scores = Mapping[str, float]


class Features(NamedTuple):
    """What a backbone makes of N boxes, for heads.

    Attributes
    ----------
    vector
        (N, E).
    maps
        Feature maps (N, C, D, H, W) at several scales, the finest first; none where no task needs them.
    """

    vector: Tensor
    maps: tuple[Tensor, ...] = ()


class Task(ABC):
    """One thing that a network says of each particle.

    Attributes
    ----------
    name
        Of the task, of its head, and on the card.
    outputs
        The axes of the named outputs that it adds, in their order, as :attr:`cryoclass.card.Card.outputs`. Engines give
        them, files of outputs are named by them, and an ONNX file has them.
    follows
        Those of them that follow from the others, and need not be stored.
    needs_maps
        Whether its head takes feature maps, which not every backbone hands out.
    """

    name: ClassVar[str]
    outputs: ClassVar[Mapping[str, Axes]]
    follows: ClassVar[frozenset[str]] = frozenset()
    needs_maps: ClassVar[bool] = False

    # ------------------------------------------------------------------------------------------- network

    @abstractmethod
    def make_head(self, backbone: Backbone, classes: int) -> nn.Module:
        """Return a head for what a backbone makes of boxes, randomly initialised from torch's global generator."""

    @abstractmethod
    def say(self, head: nn.Module, features: Features) -> Said:
        """Return what the head says, as it is learnt from; a subset of the outputs."""

    @abstractmethod
    def finish(self, said: Said) -> Said:
        """Return all outputs, float32, from what the head says."""

    # ------------------------------------------------------------------------------------------ learning

    @abstractmethod
    def target(self, labels: NDArray[np.integer]) -> Tensor:
        """Return what is to be learnt of particles with these class numbers (n,)."""

    @abstractmethod
    def loss(self, said: Said, target: Tensor, recipe: Recipe) -> Tensor:
        """Return how far what the head says is from the target, a mean over the batch."""

    @abstractmethod
    def score(self, said: Arrays, labels: NDArray[np.integer], classes: Sequence[str]) -> Metrics:
        """Return how good outputs are, given the true class numbers (n,), n at least 1."""

    @abstractmethod
    def rank(self, scores: Scores) -> tuple[float, ...]:
        """Return what orders epochs, more being better, by validation scores: ``accuracy``, ``loss``, and ``auc`` if there is one."""

    # ------------------------------------------------------------------------------------------- results

    @abstractmethod
    def columns(self, decisions: "Decisions", classes: Sequence[str]) -> dict[str, list[str]]:
        """Return the columns that the task adds to the user's table."""

    @abstractmethod
    def write_files(self, folder: Path, decisions: "Decisions", classes: Sequence[str]) -> None:
        """Write the files of the task into the folder of the results.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """

    # -------------------------------------------------------------------------------------------- export

    @abstractmethod
    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of those outputs that lie between 0 and 1; NaN where one is."""

    @abstractmethod
    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:
        """Say whether two sets of outputs decide alike; what differs by less than ``tie`` may go either way."""
