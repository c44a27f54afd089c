"""What a task is: all that differs between telling classes and whatever else a network may say of a particle."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoclass.card import Axes
from cryoclass.settings import Recipe

if TYPE_CHECKING:
    from cryoclass.results import Told

Said = dict[str, Tensor]
Arrays = Mapping[str, NDArray[np.float32]]
Truth = Literal["class", "mask", "density"]


class Features(NamedTuple):
    """What a backbone, and its decoder, make of N boxes, for heads.

    Attributes
    ----------
    vector
        (N, E).
    dense
        The map of the decoder (N, C, d, h, w); None where no task needs it.
    sides
        D, H and W of the boxes.
    """

    vector: Tensor
    dense: Tensor | None = None
    sides: Sequence[int] = ()


class Scores(Protocol):
    """How good a task's outputs are."""

    @property
    def count(self) -> int:
        """Particles scored."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        ...


class Task(ABC):
    """One thing that a network says of each particle.

    Attributes
    ----------
    name
        Of the task, of its head, and on the card.
    truth
        What is known of a particle that it can learn from: its class number, which voxels belong to it, or its density.
    outputs
        The axes of the named outputs that it adds, in their order, as :attr:`cryoclass.card.Card.outputs`. Engines give
        them, files of outputs are named by them, and an ONNX file has them.
    follows
        Those of them that follow from the others, and need not be stored.
    dense
        Whether it speaks of each voxel, and its head takes a map on the grid of the box; not every backbone has one.
    """

    name: ClassVar[str]
    truth: ClassVar[Truth]
    outputs: ClassVar[Mapping[str, Axes]]
    follows: ClassVar[frozenset[str]] = frozenset()
    dense: ClassVar[bool] = False

    # ------------------------------------------------------------------------------------------- network

    @abstractmethod
    def make_head(self, width: int, classes: int, fold: int = 1) -> nn.Module:
        """Return a head, randomly initialised from torch's global generator.

        Parameters
        ----------
        width
            Length of the vector; of a dense task, channels of the map.
        classes
            How many classes there are.
        fold
            Of a dense task, how many voxels along each side one place of the map stands for.
        """

    @abstractmethod
    def say(self, head: nn.Module, features: Features) -> Said:
        """Return what the head says, as it is learnt from; a subset of the outputs."""

    @abstractmethod
    def finish(self, said: Said) -> Said:
        """Return all outputs, float32, from what the head says."""

    # ------------------------------------------------------------------------------------------ learning

    @abstractmethod
    def loss(self, said: Said, truth: Tensor, recipe: Recipe) -> Tensor:
        """Return how far what the head says is from the truth, a mean over what is known; 0 where nothing is.

        Parameters
        ----------
        said
            From :meth:`say`.
        truth
            Class numbers (n,), -1 where unknown; of a dense task (n, D, H, W), NaN where unknown.
        recipe
            How to learn.
        """

    @abstractmethod
    def judge(self, outputs: Said, truth: Tensor) -> Said:
        """Return what :meth:`score` needs to know of each particle: named tensors (n, ...), small ones."""

    @abstractmethod
    def score(self, judged: Arrays, labels: NDArray[np.integer], classes: Sequence[str]) -> Scores | None:
        """Return how good outputs are; None where the truth of no particle is known.

        Parameters
        ----------
        judged
            From :meth:`judge`, of n particles.
        labels
            True class numbers (n,); -1 where unknown.
        classes
            Their names.
        """

    @abstractmethod
    def grade(self, scores: Any) -> float:
        """Return, of :meth:`score`, the one number by which epochs are compared: 1 is as good as can be."""

    @abstractmethod
    def cost(self, scores: Any) -> float:
        """Return, of :meth:`score`, the mean loss."""

    # ------------------------------------------------------------------------------------------- results

    @abstractmethod
    def columns(self, told: "Told") -> dict[str, list[str]]:
        """Return the columns that the task adds to the user's table."""

    def write_files(self, folder: Path, told: "Told") -> None:  # noqa: B027 - most write none
        """Write the files of the task, beside its volumes, into the folder of the results.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """

    # -------------------------------------------------------------------------------------------- export

    @abstractmethod
    def difference(self, found: Arrays, expected: Arrays) -> float:
        """Return the largest absolute difference of those outputs that are held to a tolerance; NaN where one is."""

    @abstractmethod
    def same(self, found: Arrays, expected: Arrays, tie: float) -> bool:
        """Say whether two sets of outputs decide alike; what differs by less than ``tie`` may go either way."""
