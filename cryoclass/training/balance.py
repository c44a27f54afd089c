"""How much the loss of each task counts: by fixed weights, or by weights that are learnt along the way."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cryoclass.errors import UsageError
from cryoclass.numerals import number
from cryoclass.tasks import Task

LEARNED = "learned"


class Balance(nn.Module):
    """One loss of several.

    Learnt weights are those of Kendall, Gal and Cipolla (2018, arXiv:1705.07115): with s the logarithm of a task's variance, its
    loss counts ``exp(-s)``, and ``s`` is added, which keeps it from going to nothing.

    Parameters
    ----------
    tasks
        Whose losses.
    typed
        Such as ``segment=0.5``, with commas between several, 1 for those that are not named; or ``learned``.

    Raises
    ------
    UsageError
        It cannot be read.
    """

    def __init__(self, tasks: Sequence[Task], typed: str) -> None:
        super().__init__()
        self.fixed = None if typed == LEARNED else fixed_weights([task.name for task in tasks], typed)
        learnt = [task.name for task in tasks] if self.fixed is None else []
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learnt})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of all tasks together."""
        if self.fixed is not None:
            parts = [self.fixed[name] * loss for name, loss in losses.items()]
        else:
            parts = [
                loss * (-self.log_variances[name]).exp() + self.log_variances[name]
                for name, loss in losses.items()
            ]
        return torch.stack(parts).sum()

    @property
    def weights(self) -> dict[str, float]:
        """What the loss of each task counts now."""
        if self.fixed is not None:
            return self.fixed
        return {name: float((-value.detach()).exp()) for name, value in self.log_variances.items()}


def fixed_weights(names: Sequence[str], typed: str) -> dict[str, float]:
    """Return the weight of each task, as typed.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    weights = dict.fromkeys(names, 1.0)
    for part in filter(None, typed.split(",")):
        name, _, value = part.strip().partition("=")
        weight = _number(value)
        if name not in weights or weight is None:
            raise UsageError(
                f"--loss-weights is {typed}; it must be {LEARNED}, or a weight of at least 0 for some of the tasks of this "
                f"run ({', '.join(names)}).",
                f"Write it as {','.join(f'{task}=1' for task in names)}.",
            )
        weights[name] = weight
    if not any(weights.values()):
        raise UsageError(f"--loss-weights is {typed}; then there is nothing to learn.")
    return weights


def _number(text: str) -> float | None:
    try:
        weight = number(text)
    except ValueError:
        return None
    return weight if 0 <= weight < float("inf") else None
