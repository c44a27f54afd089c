"""Every setting, declared once: type, default, unit, help and limits.

A setting travels as the frozen object it lives in. The command line builds its options from the same fields
(:mod:`cryoclass.cli.options`), so a default or a help text stands in one place only.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from cryoclass.errors import UsageError

Size3 = tuple[int, int, int]
MAX_SEED = 2**32 - 1  # the largest that numpy, torch and scikit-learn all take


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the command line needs to know of a field, kept in the field's metadata.

    Parameters
    ----------
    help
        One sentence for ``--help``.
    unit
        Unit or placeholder shown beside the option, such as ``angstroms``.
    flags
        Names on the command line; the default is the field's name in kebab case.
    minimum, maximum
        Inclusive limits, held by :meth:`Settings.__post_init__`; ``above`` is an exclusive lower limit.
    argument
        Whether it is typed without a name, behind the command.
    """

    help: str
    unit: str = ""
    flags: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    argument: bool = False


def setting(default: Any = dataclasses.MISSING, **option: Any) -> Any:
    """Declare a field of a :class:`Settings` class together with its :class:`Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(**option)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: checks limits on creation and says the option's name when one is broken."""

    panel: ClassVar[str] = "Settings"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            option, value = field.metadata.get("option"), getattr(self, field.name)
            if option is not None and value is not None:
                hint = _hints(type(self))[field.name]  # type: ignore[arg-type]
                _check_choice(_flag(field.name, option), value, hint)
                _check_limits(_flag(field.name, option), value, option)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def _flag(name: str, option: Option) -> str:
    if option.argument:
        return option.unit
    return option.flags[0] if option.flags else "--" + name.replace("_", "-")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


@functools.cache
def _hints(group: Any) -> dict[str, Any]:
    return get_type_hints(group)


def words_of(hint: Any) -> tuple[str, ...]:
    """Return the words that a field of this type can take, where it takes a few words."""
    parts = (hint, *get_args(hint))
    return next((get_args(part) for part in parts if get_origin(part) is Literal), ())


def _check_choice(flag: str, value: Any, hint: Any) -> None:
    words, number = words_of(hint), int in get_args(hint)
    if not words or value in words or (number and isinstance(value, int)):
        return
    more = " or a whole number" if number else ""
    raise UsageError(f"{flag} is {value}; it must be {'one of ' * (len(words) > 1)}{', '.join(words)}{more}.")


def _check_limits(flag: str, value: Any, option: Option) -> None:
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, str | bool | Path) or number is None:
            continue
        if option.minimum is not None and not number >= option.minimum:
            raise UsageError(f"{flag} is {number}; it must be at least {option.minimum}.")
        if option.above is not None and not number > option.above:
            raise UsageError(f"{flag} is {number}; it must be above {option.above}.")
        if option.maximum is not None and not number <= option.maximum:
            raise UsageError(f"{flag} is {number}; it must be at most {option.maximum}.")


def _check_order(flag: str, limits: tuple[float, float]) -> None:
    least, most = limits
    if least > most:
        raise UsageError(
            f"{flag} is {least:g} {most:g}; the smaller number comes first.",
            f"Use {flag} {most:g} {least:g}.",
        )


# ---------------------------------------------------------------------------------------------- all jobs


def outdir_setting(default: str) -> Any:
    """Declare the folder that a job writes to."""
    return setting(Path(default), flags=("--outdir", "-o", "--o"), unit="dir", help="Folder for the results.")


@dataclass(frozen=True, kw_only=True)
class Request(Settings):
    """What a job is asked for: its own fields, and groups of settings as fields of their own."""

    panel: ClassVar[str] = "Options"

    overwrite: bool = setting(False, flags=("--overwrite",), help="Replace the results of a finished run.")


@dataclass(frozen=True, kw_only=True)
class WorkRequest(Request):
    """A job that takes a while."""

    num_workers: int | None = setting(
        None,
        flags=("--num-workers", "-j", "--j"),
        unit="n",
        help="Cores to use: threads that read and write, and that compute on a CPU; all there are where left out.",
        minimum=1,
    )
    max_unreadable: float = setting(
        0.05,
        unit="share",
        help="Of the particles, how many may be unreadable; where more are, the run ends with an error.",
        minimum=0,
        maximum=1,
    )


PARTICLES_HELP = "STAR file; particles.star in the current folder where left out."


def particles_setting() -> Any:
    """Declare the table that a job reads."""
    return setting(None, argument=True, unit="particles", help=PARTICLES_HELP)


def device_setting() -> Any:
    """Declare where to compute."""
    return setting("auto", unit="name", help="Where to compute: auto, cpu, cuda or cuda:1.")


def label_column_setting() -> Any:
    """Declare the column that holds labels."""
    return setting(None, unit="column", help="Column with the labels; cryoclassLabel, else rlnClassNumber.")


def resume_setting() -> Any:
    """Declare whether an interrupted run goes on."""
    return setting(
        False,
        flags=("--resume",),
        help="Go through a finished run in --outdir again, from its last checkpoint.",
    )


def box_to_cut_setting() -> Any:
    """Declare the box of crops on the fly."""
    return setting(None, unit="pixels", minimum=4, help="With --tomograms: side of the boxes to cut.")


Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Settings):
    """A trained model: a model folder or an exported file."""

    panel: ClassVar[str] = "Options"

    model: Path | None = setting(None, unit="dir", help="Model folder written by finetune.")
    onnx: Path | None = setting(None, unit="file", help="Model written by export.")
    rescale: bool = setting(
        False,
        flags=("--rescale",),
        help="Bring boxes to the model's pixel size and box where they differ.",
    )

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.model is not None or self.onnx is not None

    def check_one(self) -> None:
        """Hold that there is exactly one.

        Raises
        ------
        UsageError
            There is none, or both are given.
        """
        if (self.model is None) == (self.onnx is None):
            raise UsageError(
                "give one of --model and --onnx.",
                "--model Finetune/ is what finetune wrote, --onnx what export wrote. Without either, predict --tasks "
                "segment,recover uses weights that come with cryoclass.",
            )


# ---------------------------------------------------------------------------------------------- extract


@dataclass(frozen=True, kw_only=True)
class Cutting(Settings):
    """How a box is cut out of a tomogram and made ready, whatever its size."""

    panel: ClassVar[str] = "Cutting out of tomograms"

    invert: Literal["auto", "yes", "no"] = setting(
        "auto", help="Flip the contrast so that particles are bright; auto decides by who made the tomogram."
    )
    norm: bool = setting(
        True,
        flags=("--norm/--no-norm",),
        help="Bring the background outside --bg-radius to mean 0 and deviation 1.",
    )
    bg_radius: float | None = setting(
        None,
        help="Radius of the particle for --norm; 0.375 of the box where left out.",
        unit="pixels",
        above=0,
    )
    edge: Literal["replicate", "skip"] = setting(
        "replicate",
        help="A box that sticks out of its tomogram: repeat the outermost voxels (as RELION), or skip it.",
    )
    relion_rounding: bool = setting(
        False,
        flags=("--relion-rounding",),
        help="Truncate coordinates as RELION 3 does, instead of rounding to nearest.",
    )
    coords_angpix: float | None = setting(
        None,
        help="Coordinates count pixels of this size from the first voxel, whatever the file seems to say.",
        unit="angstroms",
        above=0,
    )
    shifts: bool = setting(
        True,
        flags=("--shifts/--no-shifts",),
        help="Subtract the refined origins (rlnOrigin*) from the coordinates.",
    )


@dataclass(frozen=True, kw_only=True)
class Extraction(Cutting):
    """How a subtomogram of a certain size is cut and written."""

    panel: ClassVar[str] = "Cutting and normalising"

    box: int = setting(
        help="Side of the written box, after rescaling; even.", unit="pixels", minimum=4, maximum=1024
    )
    angpix: float | None = setting(
        None,
        help="Pixel size of the written box; the tomogram's own where left out.",
        unit="angstroms",
        minimum=0.01,
        maximum=1000,
    )
    dtype: Literal["float32", "float16"] = setting(
        "float32", help="Number type of the written volumes; RELION 3.1 reads float32 only."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box % 2:
            raise UsageError(
                f"--box is {self.box}; RELION and Warp read even boxes only.", f"Use --box {self.box + 1}."
            )
        if self.bg_radius is not None and 2 * self.bg_radius > self.box:
            raise UsageError(
                f"--bg-radius is {self.bg_radius:g} pixels; it must be at most half the box of {self.box}.",
                f"Use --bg-radius {0.375 * self.box:g}, or --no-norm.",
            )

    @classmethod
    def of(cls, cutting: Cutting, box: int, angpix: float | None) -> Self:
        """Return the extraction that cuts boxes of a size in a given way."""
        return cls(**dataclasses.asdict(cutting), box=box, angpix=angpix)

    @property
    def background_radius(self) -> float:
        """Radius in pixels outside which the background is measured; by default RELION's 75 % of the box."""
        return self.bg_radius if self.bg_radius is not None else float(int(0.375 * self.box))


@dataclass(frozen=True, kw_only=True)
class TomogramFiles(Settings):
    """Where tomograms are."""

    panel: ClassVar[str] = "Tomograms"

    tomograms: Path | None = setting(
        None, help="Folder of the tomograms, one tomogram, or a tomograms.star.", unit="path"
    )
    tomogram_angpix: float | None = setting(
        None,
        help="Voxel size of the tomograms, where their headers are wrong.",
        unit="angstroms",
        minimum=0.01,
        maximum=1000,
    )
    skip_missing: bool = setting(
        False,
        flags=("--skip-missing",),
        help="Go on without the particles of tomograms that have no volume.",
    )


@dataclass(frozen=True, kw_only=True)
class BoxOrigin(TomogramFiles):
    """Where the boxes of a table come from: the files it names, or crops out of tomograms on the fly."""

    panel: ClassVar[str] = "Boxes (with --tomograms they are cut on the fly)"

    angpix: float | None = setting(
        None,
        help="Pixel size: with --tomograms, of the boxes to cut; else of the files, where their STAR file is wrong.",
        unit="angstroms",
        minimum=0.01,
        maximum=1000,
    )


# -------------------------------------------------------------------------------------------- networks

Intensity = Literal["standard", "unit", "as-pretrained"]
DepthPolicy = Literal["resize", "keep", "repeat-last"]
BeamAxis = Literal["z", "y", "x"]

INTENSITY_HELP = (
    "Grey values per box: mean 0 and deviation 1 (standard), 0 to 1 (unit, the paper's), or what the pretrained "
    "weights were shown (as-pretrained)."
)
DEPTH_HELP = (
    "Slices along the beam: resampled to the network's depth, kept as they are, or the last one repeated up to the "
    "network's depth."
)
BEAM_AXIS_HELP = "Axis of the boxes that plays the role of time in video."


@dataclass(frozen=True, kw_only=True)
class Preparation(Settings):
    """What turns raw voxels into network input: the single definition, stored in the model card.

    ``intensity`` is taken per box: ``standard`` gives mean 0 and standard deviation 1; ``unit`` stretches the smallest and
    largest voxel to 0 and 1 (the paper's way); ``as-pretrained`` stretches them to ``limits``, what the backbone's weights
    saw in black and white (filled in by :meth:`cryoclass.backbones.spec.BackboneSpec.prepare`).
    """

    panel: ClassVar[str] = "Network input"

    input_size: Size3 = setting(
        (32, 128, 128),
        help="Depth, height and width that the network sees.",
        unit="D H W",
        minimum=8,
        maximum=512,
    )
    intensity: Intensity = setting("unit", help=INTENSITY_HELP)
    depth: DepthPolicy = setting("resize", help=DEPTH_HELP)
    beam_axis: BeamAxis = setting("z", help=BEAM_AXIS_HELP)
    limits: tuple[float, float] = (0.0, 1.0)

    def seen(self, depth: int | None = None) -> Size3:
        """Return what the network sees of a box with this many slices along the beam."""
        if self.depth == "keep" and depth is not None:
            return (depth, *self.input_size[1:])
        return self.input_size


@dataclass(frozen=True, kw_only=True)
class Augmentation(Settings):
    """Random changes of a training box, in the plane across the beam, the same for all its slices.

    The two steps of the paper (resized crop, affine) are drawn on their own with ``probability`` each.
    """

    probability: float = setting(0.5, help="Chance of each step.", minimum=0, maximum=1)
    crop_area: tuple[float, float] = setting(
        (0.5, 1.0), help="Share of the area that a crop keeps.", above=0, maximum=1
    )
    crop_ratio: tuple[float, float] = setting((0.75, 4 / 3), help="Width over height of a crop.", above=0)
    rotation: float = setting(
        45.0, help="Largest turn about the beam axis.", unit="degrees", minimum=0, maximum=180
    )
    shift: float = setting(0.1, help="Largest shift, as a share of the box.", minimum=0, maximum=1)
    zoom: float = setting(0.1, help="Largest relative change of size.", minimum=0, maximum=0.9)
    flip: bool = setting(
        False, help="Mirror at random along each axis (structures are chiral; off in the paper)."
    )
    half_turns: bool = setting(
        False, help="Half turns about x, y and z, which leave the missing wedge where it is; always drawn."
    )


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """How to fine-tune: everything that the loop needs beside the data and the network.

    ``steps`` lets the learning rate fall tenfold after each of ``milestones``, which are shares of the epochs;
    ``one-cycle`` raises it over the first three tenths of the epochs and lowers it to nothing over the rest.
    ``head_first`` fits the head to the backbone as it is before the first epoch (Kumar et al. 2022, arXiv:2202.10054).
    ``freeze_norm`` keeps the statistics of batch normalisation as they are.
    ``freeze`` leaves the backbone as it is. Where classes alone are told, the head is then fitted at once, and only
    preparation and batch size count.
    ``tasks`` and ``loss_weights`` say what is learnt, and how much the loss of each task counts.
    """

    name: str
    epochs: int = setting(help="Times that every training particle is seen.", minimum=1, maximum=100_000)
    lr: float = setting(help="Highest learning rate of Adam.", above=0, maximum=10)
    batch_size: int = setting(32, help="Particles per step.", minimum=2, maximum=65536)
    schedule: Literal["steps", "one-cycle"] = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    weight_decay: float = setting(0.0, help="Weight decay, apart from the gradient.", minimum=0)
    label_smoothing: float = setting(
        0.0, help="Share of a label that is spread over all classes.", minimum=0, maximum=1
    )
    head_first: bool = False
    freeze_norm: bool = False
    freeze: bool = False
    tasks: tuple[str, ...] = ("classify",)
    loss_weights: str = ""
    augmentation: Augmentation = Augmentation()
    preparation: Preparation = Preparation()

    @property
    def at_once(self) -> bool:
        """Whether a head alone is fitted to what the backbone says, without any epoch."""
        return self.freeze and self.tasks == ("classify",)


@dataclass(frozen=True, kw_only=True)
class Split(Settings):
    """How labelled particles are shared out between training, validation and test."""

    panel: ClassVar[str] = "Splitting the labelled particles"

    split: Literal["auto", "tomogram", "particle"] = setting(
        "auto",
        help="Keep tomograms whole (honest scores), or share out particles; auto keeps them whole where every class allows.",
    )
    val_fraction: float = setting(
        0.2,
        help="Share that chooses the best epoch; 0 for none, with --freeze.",
        minimum=0,
        maximum=0.9,
    )
    test_fraction: float = setting(
        0.2, help="Share held out for the reported scores; 0 for none.", minimum=0, maximum=0.9
    )
    least_classes: int = 2  # no option: one is enough where no classes are told
    crossing: bool = (
        False  # no option: whether cross-validation can stand in for parts, where a head alone is fitted
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction + self.test_fraction >= 1:
            raise UsageError(
                f"--val-fraction {self.val_fraction:g} and --test-fraction {self.test_fraction:g} leave nothing to train on."
            )


@dataclass(frozen=True, kw_only=True)
class NetworkInput(Settings):
    """What the user wishes a network to be shown; :meth:`cryoclass.backbones.spec.BackboneSpec.resolve` makes a preparation of it."""

    input_size: Size3 | None = setting(
        None,
        help="Depth, height and width that the network sees; what suits it where left out.",
        unit="D H W",
        minimum=8,
        maximum=512,
    )
    intensity: Intensity | None = None
    depth: DepthPolicy = setting("resize", help=DEPTH_HELP)
    beam_axis: BeamAxis = setting("z", help=BEAM_AXIS_HELP)


Init = Literal["auto", "video", "random"]


@dataclass(frozen=True, kw_only=True)
class Start(NetworkInput):
    """The network, and what it starts from."""

    panel: ClassVar[str] = "Network"

    backbone: str = setting(
        "res32-species",  # nothing is downloaded unasked, and few labels are enough on any machine
        help="Network and its weights; see cryoclass backbones list.",
        unit="name",
    )
    weights: Path | None = setting(
        None, help="Pretrained weights from a file; then nothing is downloaded.", unit="file"
    )
    init: str = setting(
        "auto",
        help="Start from video weights, at random, or from a model folder; auto takes what the network's name promises.",
        unit="start",
    )
    intensity: Intensity | None = setting(None, help=f"{INTENSITY_HELP} The recipe's where left out.")
    legacy_shortcut: bool = setting(
        False,
        flags=("--legacy-shortcut",),
        help="Let no gradient through the shortcuts of r3d18-k400 and r3d34-k400, as in the code of 2018.",
    )

    @property
    def donor(self) -> Path | None:
        """The model folder that is taken over from; None where ``init`` is a word for something else."""
        return None if self.init in get_args(Init) else Path(self.init)


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """How to train: a recipe, and what is different from it."""

    panel: ClassVar[str] = "Training"

    recipe: str = setting(
        "auto",
        help="paper (Jain, Li and Xu 2024), quick (for a laptop) or few (head first, then all, gently); auto is few "
        "for a res32 that has been pre-trained, and paper for the others.",
        unit="name",
    )
    epochs: int | None = setting(
        None,
        flags=("--epochs", "-n", "--num-epochs"),
        help="Instead of the recipe's.",
        minimum=1,
        maximum=100_000,
    )
    batch_size: int | None = setting(
        None, flags=("--batch-size", "-b"), help="Instead of the recipe's.", minimum=2, maximum=65536
    )
    lr: float | None = setting(None, help="Learning rate, instead of the recipe's.", above=0, maximum=10)
    freeze: bool = setting(
        False,
        flags=("--freeze",),
        help="Leave the backbone as it is. With classify alone, the head is fitted at once, on embeddings that are "
        "computed once, without augmentation.",
    )
    tasks: str = setting(
        "classify",
        help="What to learn: classify, segment (which voxels belong to the particle) and recover (its density without "
        "noise and missing wedge), with commas between them.",
        unit="list",
    )
    loss_weights: str = setting(
        "",
        help="How much the loss of each task counts, such as segment=0.5,recover=2 (1 where left out), or learned.",
        unit="list",
    )
    seed: int = setting(0, help="Seed of everything random.", minimum=0, maximum=MAX_SEED)

    @property
    def idle(self) -> tuple[str, ...]:
        """What the user says to no effect, in words."""
        at_once = self.freeze and self.tasks.strip() == "classify"
        wishes = {"--epochs": self.epochs, "--lr": self.lr} if at_once else {}
        return tuple(
            f"{flag} {value:g} does nothing with --freeze, which fits the head at once"
            for flag, value in wishes.items()
            if value is not None
        )


@dataclass(frozen=True, kw_only=True)
class BareBackbone(NetworkInput):
    """A backbone as it is, without a model around it; ``backbone`` is None where there is a model."""

    panel: ClassVar[str] = "A backbone as it is, instead of a model"

    backbone: str | None = setting(
        None, help="Network with its pretrained weights; see cryoclass backbones list.", unit="name"
    )
    weights: Path | None = setting(None, help="Its weights from a file.", unit="file")


ClusterMethod = Literal["cosine", "ward", "kmeans", "hdbscan"]
CLUSTER_BY: ClusterMethod = (
    "cosine"  # of equals on species unlike each other, the best on those alike: benchmarks/README.md
)


@dataclass(frozen=True, kw_only=True)
class Mapping2d(Settings):
    """How an embedding is laid out on a plane, and grouped."""

    panel: ClassVar[str] = "Map"

    method: Literal["tsne", "pca", "umap"] = setting(
        "tsne", flags=("--map",), help="How to lay the embedding out on a plane."
    )
    clusters: int | Literal["auto"] | None = setting(
        None,
        help="Group the particles into so many clusters, or (auto) into as many as stand out.",
        unit="k|auto",
        minimum=2,
    )
    cluster_by: ClusterMethod | None = setting(
        None,
        help="How to group: by k-means on unit vectors (cosine), Ward's method on unit vectors, k-means, or density (hdbscan, which finds "
        f"the number itself); {CLUSTER_BY} where left out. Without --clusters, into as many as stand out.",
    )
    max_clusters: int = setting(
        20,
        help="Largest number of clusters that is tried to tell how many stand out.",
        unit="k",
        minimum=2,
        maximum=200,
    )
    seed: int = setting(0, help="Seed of map and clusters.", minimum=0, maximum=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster_by == "hdbscan" and isinstance(self.clusters, int):
            raise UsageError(
                f"--cluster-by hdbscan finds the number of clusters itself, but --clusters is {self.clusters}.",
                "Leave --clusters out, or choose another --cluster-by.",
            )

    @property
    def grouped(self) -> bool:
        """Whether clusters are asked for."""
        return self.clusters is not None or self.cluster_by is not None

    @property
    def method_of_clusters(self) -> ClusterMethod:
        """How to group."""
        return self.cluster_by or CLUSTER_BY


@dataclass(frozen=True, kw_only=True)
class Exemplars(Settings):
    """A few particles that all others are compared with: rows of the table, or another table."""

    panel: ClassVar[str] = "Ranking by likeness to a few examples"

    like: list[int] | None = setting(
        None, help="Row of an example, counted from 1; may be given several times.", unit="row", minimum=1
    )
    query: Path | None = setting(None, help="STAR file that holds the examples.", unit="star")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.like and self.query is not None:
            raise UsageError("give one of --query and --like.")


# -------------------------------------------------------------------------------------------- simulate


@dataclass(frozen=True, kw_only=True)
class Simulation(Settings):
    """Tomograms of known content.

    ``snr`` is the variance of the clean density, after CTF and missing wedge, over a cube of ``box`` pixels
    round each particle (mean over all particles of the tomogram), divided by the variance of the added noise, which
    goes through the same missing wedge. Both are at ``angpix``, with nothing filtered afterwards.
    """

    panel: ClassVar[str] = "What is simulated"

    species: int | None = setting(
        None, help="How many species, in alphabetical order; all where left out.", minimum=1
    )
    per_species: int = setting(50, help="Particles of each species, over all tomograms.", minimum=1)
    tomograms: int = setting(4, help="Tomograms to write.", minimum=1, maximum=10_000)
    snr: float = setting(0.1, help="Variance of the signal over variance of the noise.", above=0)
    angpix: float = setting(10.0, help="Pixel size.", unit="angstroms", above=0, maximum=100)
    box: int = setting(
        32, help="Side of a cube that holds any particle.", unit="pixels", minimum=8, maximum=512
    )
    size: Size3 = setting(
        (64, 256, 256),
        flags=("--size",),
        help="Depth, height and width of a tomogram.",
        unit="D H W",
        minimum=16,
    )
    tilt: float = setting(
        60.0, help="Largest tilt; the rest is the missing wedge.", unit="degrees", above=0, maximum=90
    )
    defocus: tuple[float, float] = setting(
        (2.5, 5.0), help="Range of defocus.", unit="micrometres", minimum=0
    )
    voltage: float = setting(300.0, help="Acceleration voltage.", unit="kilovolts", above=0)
    spherical_aberration: float = setting(2.7, help="Spherical aberration.", unit="millimetres", minimum=0)
    amplitude_contrast: float = setting(0.07, help="Amplitude contrast.", minimum=0, maximum=1)
    labelled: float = setting(
        1.0, help="Share of particles whose label is written; the rest say unlabelled.", minimum=0, maximum=1
    )
    dialect: Literal["relion30", "relion31", "warp"] = setting("relion31", help="Whose STAR file to write.")
    seed: int = setting(0, help="Seed; the same seed gives the same files.", minimum=0, maximum=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("--defocus", self.defocus)


# ------------------------------------------------------------------------------------------- pre-training


@dataclass(frozen=True, kw_only=True)
class Invention(Settings):
    """What invented species, and the boxes that show them, may be like; each box draws its own values evenly."""

    panel: ClassVar[str] = "Invented species"

    box: int = 32
    pixel_range: tuple[float, float] = setting(
        (4.0, 16.0),
        help="Smallest and largest pixel size.",
        unit="angstroms",
        above=0,
        maximum=1000,
    )
    diameter: tuple[float, float] = setting(
        (40.0, 260.0), help="Smallest and largest diameter.", unit="angstroms", above=0, maximum=10_000
    )
    snr: tuple[float, float] = setting(
        (0.02, 1.0),
        help="Lowest and highest variance of the signal over variance of the noise, when all is learnt.",
        unit="low high",
        above=0,
    )
    first_snr: tuple[float, float] = setting(
        (0.5, 2.0), help="The same at the beginning.", unit="low high", above=0
    )
    shift: float = setting(
        3.0, help="Largest distance from the centre of the box.", unit="pixels", minimum=0, maximum=16
    )
    neighbours: int = setting(2, help="Most neighbours in a box.", minimum=0, maximum=20)
    neighbour_chance: float = setting(0.3, help="Chance of each of them.", minimum=0, maximum=1)
    membrane_chance: float = setting(0.08, help="Chance of a membrane.", minimum=0, maximum=1)
    tilt: tuple[float, float] = setting(
        (45.0, 68.0),
        help="Range of the largest tilt, drawn for each side.",
        unit="degrees",
        above=0,
        maximum=89,
    )
    axis_spread: float = setting(
        5.0, help="Deviation of the tilt axis from y.", unit="degrees", minimum=0, maximum=180
    )
    odd_axis: float = setting(0.25, help="Share of boxes with any tilt axis at all.", minimum=0, maximum=1)
    defocus: tuple[float, float] = setting(
        (2.0, 7.0), help="Range of defocus.", unit="micrometres", minimum=0
    )
    amplitude_contrast: tuple[float, float] = setting(
        (0.05, 0.15), help="Range of amplitude contrast.", unit="low high", minimum=0, maximum=1
    )
    b_factor: tuple[float, float] = setting(
        (0.0, 1500.0), help="Range of the signal's fall-off.", unit="angstroms^2", minimum=0
    )
    low_pass: tuple[float, float] = setting(
        (0.3, 0.8), help="Range of the low-pass filter; above 0.5 it takes little.", unit="1/pixel", above=0
    )
    coloured: float = setting(0.5, help="Share of boxes whose noise is not white.", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                _check_order(_flag(field.name, field.metadata["option"]), value)


@dataclass(frozen=True, kw_only=True)
class Learner(BareBackbone):
    """The network that is pre-trained, and what it starts from."""

    panel: ClassVar[str] = "Network"

    backbone: str | None = setting(
        None,
        help="Network; see cryoclass backbones list. res32 where left out, with --tasks res32-species.",
        unit="name",
    )
    weights: Path | None = setting(None, help="Weights to go on from.", unit="file")


@dataclass(frozen=True, kw_only=True)
class Pretraining(Settings):
    """How a network learns shape without labels.

    A step shows ``views`` boxes of each of ``species`` invented species.
    The learning rate rises over the first 3 % of the steps and falls to nothing along a cosine; the SNR goes from
    ``first_snr`` to ``snr`` over the first ``ramp`` of them.
    """

    panel: ClassVar[str] = "Pre-training"

    steps: int = setting(
        10_000, flags=("--steps", "-n"), help="Batches to learn from.", minimum=1, maximum=100_000_000
    )
    species: int = setting(
        64, flags=("--batch-species", "-b"), help="New species in each step.", minimum=2, maximum=65536
    )
    views: int = setting(
        1, help="Boxes of each species in a step; at least 2 with --contrast.", minimum=1, maximum=64
    )
    lr: float = setting(3e-3, help="Highest learning rate of Adam.", above=0, maximum=10)
    weight_decay: float = setting(1e-4, help="Weight decay, apart from the gradient.", minimum=0, maximum=1)
    temperature: float = setting(0.1, help="Of the contrastive loss.", above=0, maximum=10)
    describe: float = setting(
        1.0,
        help="Weight of saying what a species is like: its mass by radius and angular degree.",
        minimum=0,
        maximum=1000,
    )
    contrast: float = setting(
        0.0,
        help="Weight of telling which boxes of a step show the same species; needs --views, and helps with hundreds of "
        "species in a step.",
        minimum=0,
        maximum=1000,
    )
    ramp: float = setting(0.7, help="Share of the steps until the SNR is as wished.", above=0, maximum=1)
    seed: int = setting(0, help="Seed of everything random.", minimum=0, maximum=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.describe + self.contrast:
            raise UsageError("--describe and --contrast are both 0; then there is nothing to learn.")
        if self.contrast and self.views < 2:
            raise UsageError(
                f"--contrast {self.contrast:g} compares boxes of one species, but --views is {self.views}.",
                "Use --views 2.",
            )


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """On how many species a pre-training is measured; not an option, since scores compare only where these are the same.

    Parameters
    ----------
    reference
        Species whose spread is the unit of descriptions.
    held_out_species, held_out_views
        Species that are never trained on, and boxes of each: what the retrieval score is measured on.
    sharpening_species, sharpening_batches
        Species of a batch from which the discriminants are made in the end, and the least and most such batches.
    """

    reference: int = 2000
    held_out_species: int = 60
    held_out_views: int = 4
    sharpening_species: int = 64
    sharpening_batches: tuple[int, int] = (4, 64)
