"""What a backbone is, and what the registry says about one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network without head: boxes in, one vector per box out.

    Attributes
    ----------
    width
        Length of the vector.
    """

    width: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, 1, D, H, W)`` into ``(N, width)``."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a published weight file lies.

    Parameters
    ----------
    filename
        Name in the cache folder.
    addresses
        Tried in this order.
    size
        About how many bytes; said to the user, not checked.
    """

    filename: str
    addresses: tuple[str, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One entry of the registry.

    Parameters
    ----------
    name
        What the user types.
    summary
        One line for a table.
    build
        Makes the network, randomly initialised, for the given number of input channels: 1 is what cryoclass uses,
        3 has exactly the tensors of the published file.
    width
        Length of the embedding.
    parameters
        Number of trainable values with one input channel.
    stem
        Name of the convolution weight that sees the input channels.
    discard
        Prefixes of tensors of the published file that are not part of the backbone.
    trained_on, weights, licence
        Data set, file and licence of the pretrained weights; None and empty for a random start.
    """

    name: str
    summary: str
    build: Callable[[int], Backbone]
    width: int
    parameters: int
    stem: str
    discard: tuple[str, ...] = ()
    trained_on: str | None = None
    weights: Weights | None = None
    licence: str = ""
