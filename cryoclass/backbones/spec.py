"""What a backbone is, and what the registry says about one.

A family is one file that makes :class:`BackboneSpec` entries. It gives the network (``build``), how its published file is
read (``convert``, ``discard``), where the grey stem sits (``stem``), and facts; loading, checking, downloading, the grey
stem, grey values and the list of networks are the same code for all.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn

from cryoclass.backbones.decoder import BoxDecoder, Decoder
from cryoclass.card import WeightFacts
from cryoclass.errors import UsageError
from cryoclass.settings import Intensity, NetworkInput, Preparation, Size3

State = dict[str, Tensor]
Triple = tuple[float, float, float]

PAPER_SIZE: Size3 = (32, 128, 128)
NO_WISH = NetworkInput()


class Backbone(nn.Module, ABC):
    """A network without head: boxes in, one vector per box out.

    Its tensors do not depend on the size of its input: position tables keep their published size and are resized in
    ``forward``.

    Attributes
    ----------
    width
        Length of the vector.
    map_channels
        Channels of its feature maps, the finest first; empty where it hands out none.
    explained
        Name of the layer whose maps are shown to people, since they are fine enough to look at and deep enough to mean something;
        empty where nobody has chosen one.
    facts
        What is known of the weights that are in it: nothing, until somebody loads some that have a card.
    """

    width: int
    explained: str = ""
    map_channels: tuple[int, ...] = ()
    facts: WeightFacts = WeightFacts()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(N, 1, D, H, W)`` into ``(N, width)``."""

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002 - for those that have some
        """Turn ``(N, 1, D, H, W)`` into maps ``(N, C, d, h, w)`` at several scales, the finest first.

        Raises
        ------
        UsageError
            This network hands out none.
        """
        raise no_feature_maps(self)

    def pool(self, deepest: Tensor) -> Tensor:
        """Turn the deepest of the feature maps into the vector ``(N, width)``, as ``forward`` does."""
        return deepest.mean(dim=(2, 3, 4))

    def make_decoder(self) -> Decoder:
        """Return what brings its feature maps to the grid of the box, randomly initialised from torch's global generator.

        Raises
        ------
        UsageError
            This network hands out none.
        """
        if not self.map_channels:
            raise no_feature_maps(self)
        return BoxDecoder(self.map_channels)


def no_feature_maps(backbone: Backbone) -> UsageError:
    """Say that a backbone hands out no feature maps."""
    return UsageError(
        f"The network {type(backbone).__name__} hands out no feature maps.",
        "Use a backbone that does, such as res32-species or r3d34-k400.",
    )


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The grey values that pretrained weights expect of each colour: ``(highest * g - mean) / std``, with g from 0 to 1.

    Parameters
    ----------
    highest
        255 for networks that were shown bytes, else 1.
    mean, std
        Red, green and blue, in the range 0 to ``highest``.
    """

    highest: float = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    @property
    def grey_mean(self) -> float:
        """What is subtracted from the one grey channel."""
        return sum(self.mean) / 3

    @property
    def grey_std(self) -> float:
        """What the one grey channel is divided by."""
        return sum(self.std) / 3

    @property
    def limits(self) -> tuple[float, float]:
        """What the smallest and the largest voxel of a box become in the one grey channel."""
        return -self.grey_mean / self.grey_std, (self.highest - self.grey_mean) / self.grey_std


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The tensors that see the colours; :mod:`cryoclass.backbones.stem` makes one grey channel of them.

    Parameters
    ----------
    weight
        Name of the convolution weight ``(outputs, 3, d, h, w)``.
    offset
        Name of the tensor ``(outputs,)`` that takes up what the colours' means differ by: the bias of that convolution, or
        the ``running_mean`` of the batch normalisation right behind it.
    """

    weight: str
    offset: str


@dataclass(frozen=True, kw_only=True)
class Address:
    """A place to download from.

    Parameters
    ----------
    url
        ``https://...``
    hash
        What the file there must have: ``sha256:`` or ``sha1:`` and the whole hash or its beginning; empty where none is
        published.
    """

    url: str
    hash: str = ""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a published weight file lies.

    Parameters
    ----------
    filename
        Name in the cache folder.
    addresses
        Tried in this order; empty where there is none that a program can use.
    size
        About how many bytes; said to the user, not checked.
    by_hand
        Where a person finds the file.
    """

    filename: str
    addresses: tuple[Address, ...]
    size: int
    by_hand: str = ""


def as_published(state: State) -> State:
    """Return a published state as it is: its names are ours."""
    return state


def any_size(size: Size3) -> str:  # noqa: ARG001 - the default of BackboneSpec.refuse
    """Say that every input size is possible."""
    return ""


def at_least(*smallest: int) -> Callable[[Size3], str]:
    """Return a rule for :attr:`BackboneSpec.refuse`: depth, height and width of at least this."""

    def refuse(size: Size3) -> str:
        enough = all(side >= least for side, least in zip(size, smallest, strict=True))
        return "" if enough else f"at least {words(smallest)}"

    return refuse


def multiple_of(*steps: int) -> Callable[[Size3], str]:
    """Return a rule for :attr:`BackboneSpec.refuse`: depth, height and width in multiples of this."""

    def refuse(size: Size3) -> str:
        even = all(side % step == 0 for side, step in zip(size, steps, strict=True))
        return "" if even else f"a multiple of {words(steps)}"

    return refuse


def words(size: tuple[int, ...]) -> str:
    """Return ``32x128x128``."""
    return "x".join(map(str, size))


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One entry of the registry.

    Parameters
    ----------
    name
        What the user types.
    summary
        One line for people: the network and its source.
    build
        Makes the network, randomly initialised, for the given number of input channels: 1 is what cryoclass uses,
        3 has exactly the tensors of the published file after ``convert``. Raises UsageError where the pip extra is
        missing (:func:`need`).
    width
        Length of the embedding.
    parameters
        Number of trainable values with one input channel.
    gflop
        Work for one box of ``input_size`` with one channel: 1e9 operations, a multiply-add counting as two.
    stem
        What sees the input channels; None for a network that takes one channel only and has no published file.
    convert
        Turns the tensors of the published file, by name, into ours; a family's names, missing tables, inflation. It must
        leave a state alone that has our names already.
    discard
        Prefixes of tensors, after ``convert``, that are not part of the backbone, such as a head.
    trained_on, weights
        Data set and file of the pretrained weights; None for a random start.
    packaged
        The pretrained weights come with cryoclass, see :mod:`cryoclass.backbones.packaged`.
    made_for_boxes
        The network has a size and grey values of its own, which no recipe changes.
    intensity
        What its weights were, or are to be, shown.
    scale
        The grey values of ``as-pretrained``.
    licence
        Of the weights, or of the code for a random start; at most 20 characters, such as ``MIT``.
    licence_note
        What else is to be known about the licence.
    input_size
        Depth, height and width for people who do not choose.
    refuse
        Returns the rule that a size breaks, such as "at least 8x64x64"; empty where the network can take that size.
    onnx
        True, or the reason why export to ONNX is not offered.
    onnx_fixed_depth
        Whether an exported graph holds the depth that it was traced with, so that boxes of other depths need the
        depth policy ``resize`` or ``repeat-last``.
    extra
        The pip extra that it needs, such as ``vivit``.
    """

    name: str
    summary: str
    build: Callable[[int], Backbone]
    width: int
    parameters: int
    gflop: float
    stem: Stem | None
    convert: Callable[[State], State] = as_published
    discard: tuple[str, ...] = ()
    trained_on: str | None = None
    weights: Weights | None = None
    packaged: bool = False
    made_for_boxes: bool = False
    intensity: Intensity = "as-pretrained"
    scale: Scale = Scale()
    licence: str = "BSD-3-Clause"
    licence_note: str = ""
    input_size: Size3 = PAPER_SIZE
    refuse: Callable[[Size3], str] = any_size
    onnx: bool | str = True
    onnx_fixed_depth: bool = False
    extra: str = ""

    def allowed(self, size: Size3) -> None:
        """Hold an input size against what the network can take.

        Raises
        ------
        UsageError
            It cannot take that size.
        """
        rule = self.refuse(size)
        if rule:
            raise UsageError(
                f"{self.name} cannot take an input of {words(size)}; it must be {rule}.",
                f"Use --input-size {' '.join(map(str, self.input_size))}, or another backbone.",
            )

    def resolve(
        self, wish: NetworkInput = NO_WISH, recipe: Preparation | None = None, box: int | None = None
    ) -> Preparation:
        """Return what the network is shown: as the user wishes, else as the recipe says, else what suits the network.

        A network that was made for boxes goes before a recipe, and so does one that cannot take the recipe's size.

        Parameters
        ----------
        wish
            What the user said.
        recipe
            Of fine-tuning; None where the network is used as it is.
        box
            Side of the boxes, where known.

        Raises
        ------
        UsageError
            The network cannot take that size.
        """
        own = recipe is None or self.made_for_boxes
        base = Preparation(input_size=self.input_size, intensity=self.intensity) if recipe is None else recipe
        size = self.input_size if own or self.refuse(base.input_size) else base.input_size
        wished = base.replace(
            input_size=wish.input_size or size,
            intensity=wish.intensity or (self.intensity if own else base.intensity),
            depth=wish.depth,
            beam_axis=wish.beam_axis,
        )
        return self.prepare(wished, box)

    def prepare(self, preparation: Preparation, depth: int | None = None) -> Preparation:
        """Return a preparation made for this network: its size checked, and ``limits`` filled in as pretrained.

        Parameters
        ----------
        preparation
            What the user wishes.
        depth
            Slices of the boxes along the beam, where known; what the network sees with the depth policy ``keep``.

        Raises
        ------
        UsageError
            The network cannot take that size.
        """
        self.allowed(preparation.seen(depth))
        limits = self.scale.limits if preparation.intensity == "as-pretrained" else (0.0, 1.0)
        return preparation.replace(limits=limits)


def need(module: str, extra: str) -> ModuleType:
    """Import a package that only some backbones need.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"This backbone needs the package {module}, which cannot be imported: {error}.",
            f"pip install 'cryoclass[{extra}]'",
        ) from error
