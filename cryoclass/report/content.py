"""What the pages are told: plain arrays and names, no files and no networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]
Integers = NDArray[np.integer]
Table = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One particle to look at.

    Parameters
    ----------
    box
        Voxels [z, y, x].
    row
        Number of the particle in the STAR file, from 1.
    tomogram, true, predicted
        Names; empty where unknown.
    probability
        Probability of ``predicted``.
    """

    box: Array
    row: int
    tomogram: str = ""
    true: str = ""
    predicted: str = ""
    probability: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TomogramSheet:
    """What was cut out of one tomogram, with a few particles to look at."""

    name: str
    written: int
    skipped: int = 0
    examples: Sequence[Example] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ExtractContent:
    """Content of the page of ``extract``.

    Parameters
    ----------
    tomograms
        All tomograms in the order of the file; examples are needed only for those to be shown.
    mean_box
        Mean of all written boxes [z, y, x]; None where nothing was written.
    angpix
        Pixel size of the written boxes in angstroms.
    reasons
        How many particles were skipped for each reason.
    settings
        Name and value of each setting; nested tables are flattened.
    """

    tomograms: Sequence[TomogramSheet]
    mean_box: Array | None
    angpix: float
    reasons: Mapping[str, int] = field(default_factory=dict)
    settings: Table = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Course of a training, one value per epoch, or per freedom of a head that was fitted alone.

    Parameters
    ----------
    kind
        What ``at`` counts: ``epoch``, or ``freedom``, which is drawn by its logarithm.
    at
        Epochs or freedoms (E,), rising.
    train_loss, val_loss, val_auc, val_accuracy
        Values (E,), NaN where one was not measured; AUC and accuracy lie between 0 and 1.
    best
        The epoch or freedom whose weights were kept.
    loss
        What the losses are.
    """

    at: Array | Integers
    train_loss: Array
    val_loss: Array
    val_auc: Array
    val_accuracy: Array
    best: float
    kind: str = "epoch"
    loss: str = "cross-entropy (nats)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Predictions of particles.

    Parameters
    ----------
    classes
        Names of the K classes.
    probabilities
        Probabilities (n, K), rows summing to 1.
    labels
        True classes (n,), 0 to K - 1, -1 where unknown.
    """

    classes: Sequence[str]
    probabilities: Array
    labels: Integers

    def known(self) -> "Scored":
        """Return only the particles whose true class is known."""
        keep = self.labels >= 0
        return Scored(classes=self.classes, probabilities=self.probabilities[keep], labels=self.labels[keep])


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelSheet:
    """What is known and said of the voxels of one particle, or of the particles of a class.

    Parameters
    ----------
    title
        Of the particle, or the class.
    volumes
        Volumes [z, y, x] by what they show; NaN where nothing is known.
    """

    title: str
    volumes: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainContent:
    """Content of the page of ``finetune``.

    Parameters
    ----------
    curves
        Course of the training.
    measured_on
        What the scores were measured on, such as ``test particles (tomograms that training never saw)``;
        the page puts their number in front.
    scored
        The predictions behind the scores; empty where nothing was held out, None where no classes are told.
    remarks
        What the scores do not say of themselves, as sentences.
    mistakes
        Particles with a wrong class, most confident first (see :func:`cryoclass.report.scores.worst_mistakes`).
    counts
        Particles of each class in each part: ``{"train": (K,), "val": (K,), "test": (K,)}``.
    classes
        Names of those classes.
    voxel_scores
        Figures of tasks that speak of voxels, in words.
    sheets
        Particles with what is known and said of their voxels.
    settings, versions
        Tables for those who want to repeat the run.
    """

    curves: Curves
    measured_on: str
    scored: Scored | None
    remarks: Sequence[str] = ()
    mistakes: Sequence[Example] = ()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    voxel_scores: Mapping[str, str] = field(default_factory=dict)
    sheets: Sequence[VoxelSheet] = ()
    settings: Table = field(default_factory=dict)
    versions: Table = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Particles of one predicted class: those the network is most and least sure of."""

    name: str
    most: Sequence[Example] = ()
    least: Sequence[Example] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Classified:
    """What a prediction says of classes.

    Parameters
    ----------
    scored
        Predictions of all particles that could be read, with their labels where known (else -1).
    assigned
        The class given to each particle (n,), -1 where its probability was below the asked minimum.
    galleries
        Particles to look at (see :func:`cryoclass.report.scores.surest_and_least`).
    remarks
        What the scores do not say of themselves, as sentences.
    """

    scored: Scored
    assigned: Integers
    galleries: Sequence[Gallery] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class TomogramRow:
    """Particles of one tomogram: classified, of each class (K,), without one, unreadable; and the mean probability in words."""

    name: str
    told: int
    counts: Integers
    unsure: int
    unreadable: int
    probability: str


@dataclass(frozen=True, kw_only=True, eq=False)
class TomogramPicture:
    """A thin section of a tomogram, and the classes of the particles in it.

    Parameters
    ----------
    name
        The tomogram.
    section
        Grey values [y, x].
    size
        Its width and height in angstroms.
    height, thickness
        Of its middle over the first section of the tomogram, and of itself, in angstroms.
    places
        Where the particles lie (k, 2) x, y in angstroms from the lower left corner.
    classes
        Their classes (k,), -1 for none.
    radius
        Of the circle that stands for a particle, in angstroms.
    """

    name: str
    section: Array
    size: tuple[float, float]
    height: float
    thickness: float
    places: Array
    classes: Integers
    radius: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TomogramTable:
    """Classes by tomogram.

    Parameters
    ----------
    classes
        Names of the K classes.
    rows
        The tomograms, in the order of the table.
    unlike
        Those that are unlike the others, as sentences.
    untold
        Why that could not be told; empty where it could.
    pictures
        A few of them.
    """

    classes: Sequence[str]
    rows: Sequence[TomogramRow]
    unlike: Sequence[str] = ()
    untold: str = ""
    pictures: Sequence[TomogramPicture] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictContent:
    """Content of the page of ``predict``.

    Parameters
    ----------
    count
        Particles that the network has spoken of.
    classified
        What it says of classes; None where it was not asked.
    tomograms
        The same by tomogram; None where no classes are told, or no tomograms named.
    averages
        Classes with the means of their particles.
    sheets
        Particles with what it says of their voxels.
    skipped
        How many particles could not be read, by reason.
    settings, versions
        Tables for those who want to repeat the run.
    """

    count: int
    classified: Classified | None
    tomograms: TomogramTable | None = None
    averages: Sequence[VoxelSheet] = ()
    sheets: Sequence[VoxelSheet] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    settings: Table = field(default_factory=dict)
    versions: Table = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """One way to colour a map.

    Parameters
    ----------
    title
        What the groups are, such as ``label``, ``predicted class`` or ``cluster``.
    names
        Names of the groups.
    index
        Group of each particle (n,), -1 for none (drawn grey, behind).
    """

    title: str
    names: Sequence[str]
    index: Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterCurve:
    """What was measured by number of clusters (K,); values are NaN where there is none."""

    numbers: Integers
    stability: Array
    deviation: Array
    silhouette: Array
    cloud: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterRow:
    """One way to group, in words: how many clusters, how stable, how far apart, and how far it agrees with each way."""

    method: str
    number: int
    stability: str
    silhouette: str
    agreements: Sequence[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterSheet:
    """What speaks for clusters.

    Parameters
    ----------
    method
        The way that was chosen.
    particles
        How many everything was measured on.
    reason
        How many clusters stand out and why, or that it could not be told.
    doubts
        What speaks against them, as sentences.
    rows
        Each way, the chosen one first.
    curve
        Of the chosen way; None where there is nothing to draw.
    """

    method: str
    particles: int
    reason: str
    doubts: Sequence[str]
    rows: Sequence[ClusterRow]
    curve: ClusterCurve | None


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedContent:
    """Content of the page and the picture of ``embed``.

    Parameters
    ----------
    points
        Positions on the map (n, 2).
    rows
        Numbers of the particles in the STAR file (n,), from 1.
    tomograms
        Tomogram of each particle (n,); empty names where unknown.
    groupings
        Ways to colour the map; the first one is shown at the start.
    clusters
        What speaks for clusters; None where none were asked for.
    probability
        Probability of the predicted class (n,), or None.
    method
        How the map was made: ``pca``, ``tsne`` or ``umap``.
    settings
        Table for those who want to repeat the run.
    """

    points: Array
    rows: Integers
    tomograms: Sequence[str]
    groupings: Sequence[Grouping]
    clusters: ClusterSheet | None = None
    probability: Array | None = None
    method: str = "tsne"
    settings: Table = field(default_factory=dict)
