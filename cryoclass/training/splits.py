"""Which labelled particles train, which choose the best epoch, and which are kept for the reported scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryoclass.errors import ParticleError
from cryoclass.settings import Split

PARTS = ("train", "val", "test")
CROSSED = "crossed"  # trains, and is scored by cross-validation
TAUGHT = ("train", CROSSED)
FEWEST_CLASSES = 2
CANDIDATES = (
    4096  # ways to share out whole tomograms that are looked at; for up to 7 tomograms, all there are
)
WAY_OUT = "Use --split particle, or label particles in more tomograms."

Integers = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Where every particle went.

    Parameters
    ----------
    parts
        ``"train"``, ``"val"``, ``"test"``, ``"crossed"`` (all train, and cross-validation scores them) or ``""`` (takes no
        part) for each row.
    mode
        Whether tomograms were kept whole, particles were shared out, or nothing was.
    reason
        Why this mode, in words that follow "because".
    """

    parts: NDArray[np.str_]
    mode: Literal["tomogram", "particle", "nothing"]
    reason: str

    @property
    def in_words(self) -> str:
        """What was kept apart, and why."""
        kept = f"{self.mode}s kept apart" if self.mode != "nothing" else "nothing held out"
        return f"{kept}, because {self.reason}"


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """The labelled rows: class and tomogram as numbers without gaps, and the share that each part should get."""

    codes: Integers
    names: Sequence[str]
    tomograms: Integers
    fractions: NDArray[np.float64]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def tomogram_count(self) -> int:
        return int(self.tomograms.max()) + 1

    @property
    def part_count(self) -> int:
        return len(self.fractions)

    @property
    def smallest(self) -> int:
        """Number of the particles of the smallest class."""
        return int(np.bincount(self.codes).min())


def assign_parts(
    labels: Integers,
    tomograms: Sequence[str],
    settings: Split,
    seed: int,
    classes: Sequence[str] = (),
    same: Integers | None = None,
) -> Assignment:
    """Share labelled particles out between training, validation and test; rows of one particle stay together.

    Parameters
    ----------
    labels
        Class number of each row, from 0; -1 where unlabelled. Shape (n,).
    tomograms
        Name of the tomogram of each row.
    settings
        The mode and the fractions asked for.
    seed
        The same seed gives the same parts.
    classes
        Names for messages; the class numbers where left out.
    same
        The particle that each row shows, as a number (n,); each row another one where left out.

    Raises
    ------
    ParticleError
        No row has a label, all have the same one, a class is too small to be in every part, or whole tomograms
        were asked for and cannot be shared out.
    """
    labelled_rows = np.flatnonzero(labels >= 0)
    particles = np.arange(len(labels)) if same is None else same
    _, first, particle = np.unique(particles[labelled_rows], return_index=True, return_inverse=True)
    rows = labelled_rows[first]  # each particle is shared out once
    present, codes = np.unique(labels[rows], return_inverse=True)
    labelled = _Labelled(
        codes=codes,
        names=[classes[number] if classes else str(number) for number in present],
        tomograms=np.unique(np.asarray(tomograms)[rows], return_inverse=True)[1],
        fractions=_fractions(settings),
        parts=_parts(settings),
    )
    _check_classes(labelled, settings)
    parts = np.full(len(labels), "", dtype="<U7")
    if _is_crossed(labelled, settings):
        parts[labelled_rows] = CROSSED
        return Assignment(parts=parts, mode="nothing", reason=_why_crossed(labelled))
    mode, chosen, reason = _choose(labelled, settings.split, np.random.default_rng(seed))
    parts[labelled_rows] = np.asarray(labelled.parts)[chosen][particle]
    return Assignment(parts=parts, mode=mode, reason=reason)


def too_few_to_share(labels: Integers, settings: Split) -> bool:
    """Whether a class has fewer particles (n,) than there are parts."""
    counts = np.bincount(labels[labels >= 0])
    return bool(len(counts)) and int(counts[counts > 0].min()) < len(_parts(settings))


def _is_crossed(labelled: _Labelled, settings: Split) -> bool:
    return settings.crossing and (labelled.part_count == 1 or labelled.smallest < labelled.part_count)


def _why_crossed(labelled: _Labelled) -> str:
    if labelled.part_count == 1:
        return "it was asked for: cross-validation gives the scores"
    small = labelled.names[int(np.argmin(np.bincount(labelled.codes)))]
    scored = "gives the scores" if labelled.smallest > 1 else "scores the classes that have two or more"
    return f"class {small!r} has {labelled.smallest} labelled: all train, and cross-validation {scored}"


def with_unlabelled(
    assignment: Assignment, known: NDArray[np.bool_], tomograms: Sequence[str], same: Integers
) -> Assignment:
    """Let rows without a label train too where the truth of their voxels is known.

    Nothing of what is held out is shown: neither another row of a particle that is, nor, where tomograms are kept whole, any row of one.

    Parameters
    ----------
    assignment
        Of the labelled rows.
    known
        Of which rows there is something to learn but the class, (n,).
    tomograms, same
        As for :func:`assign_parts`.
    """
    parts = assignment.parts
    held = same if assignment.mode == "particle" else np.unique(np.asarray(tomograms), return_inverse=True)[1]
    held_out = np.isin(held, held[np.isin(parts, PARTS[1:])]) | np.isin(same, same[np.isin(parts, PARTS[1:])])
    return replace(assignment, parts=np.where((parts == "") & known & ~held_out, PARTS[0], parts))


def _parts(settings: Split) -> tuple[str, ...]:
    """Return the parts that are asked for."""
    shares = (1.0, settings.val_fraction, settings.test_fraction)
    return tuple(name for name, share in zip(PARTS, shares, strict=True) if share > 0)


def _fractions(settings: Split) -> NDArray[np.float64]:
    """Return the shares of the parts that are asked for."""
    shares = [settings.val_fraction, settings.test_fraction]
    return np.array([1 - sum(shares), *(share for share in shares if share > 0)])


def _choose(
    labelled: _Labelled, split: Literal["auto", "tomogram", "particle"], generator: np.random.Generator
) -> tuple[Literal["tomogram", "particle"], Integers, str]:
    """Return the mode, the part number of each labelled row, and the reason."""
    if split == "particle":
        return "particle", _share_particles(labelled, generator), "it was asked for"
    too_few = _too_few(labelled)
    if split == "auto" and too_few:
        return "particle", _share_particles(labelled, generator), too_few
    if too_few:
        raise ParticleError(f"Tomograms cannot be kept whole: {too_few}.", WAY_OUT)
    whole = _share_tomograms(labelled, generator)
    if split == "tomogram":
        _check_trained(labelled, whole)
        return "tomogram", whole, "it was asked for"
    obstacle = _obstacle(labelled, whole)
    if obstacle:
        return "particle", _share_particles(labelled, generator), obstacle
    reason = f"{labelled.tomogram_count} tomograms can be kept whole with every class in every part"
    return "tomogram", whole, reason


def _check_classes(labelled: _Labelled, settings: Split) -> None:
    names, counts, parts = labelled.names, np.bincount(labelled.codes), labelled.part_count
    least = settings.least_classes
    if len(names) == 0:
        raise ParticleError(
            "No particle has a label; training needs at least two classes.",
            "Name the column that holds the classes with --label-column.",
        )
    if len(names) < least:
        raise ParticleError(
            f"All {counts[0]} labelled particles are of class {names[0]!r}; training needs at least two classes.",
            "Add particles of another class, such as false positives.",
        )
    small = int(np.argmin(counts))
    if counts[small] < parts and not settings.crossing:
        noun = "particle" if counts[small] == 1 else "particles"
        raise ParticleError(
            f"Class {names[small]!r} has {counts[small]} labelled {noun}; each class needs at least {parts}, "
            f"one for each of {', '.join(labelled.parts)}.",
            _ways_out(int(counts[small]), len(names), parts),
        )


def _ways_out(count: int, classes: int, parts: int) -> str:
    """Say what helps where a class has too few particles, and nothing that would lead to the next error."""
    ways = ["Label more of it", "use --freeze (scored by cross-validation)"]
    if classes > FEWEST_CLASSES:
        ways.append("leave it out")
    if parts == len(PARTS) and count >= parts - 1:
        ways.append("use --test-fraction 0")
    return ", or ".join(ways) + "."


def _share_particles(labelled: _Labelled, generator: np.random.Generator) -> Integers:
    """Share out the particles of each class on their own, at least one to every part."""
    parts = np.zeros(len(labelled), dtype=np.int64)
    for code in range(len(labelled.names)):
        members = generator.permutation(np.flatnonzero(labelled.codes == code))
        sizes = np.maximum(1, np.round(labelled.fractions[1:] * len(members)).astype(int))
        while sizes.sum() >= len(members):  # leave one to train
            sizes[np.argmax(sizes)] -= 1
        for part, group in enumerate(np.split(members, np.cumsum(sizes))[:-1], start=1):
            parts[group] = part
    return parts


def _too_few(labelled: _Labelled) -> str:
    """Say that there are fewer tomograms than parts; empty where there are enough."""
    have, need = labelled.tomogram_count, labelled.part_count
    if have >= need:
        return ""
    noun = "tomogram" if have == 1 else "tomograms"
    return (
        f"the labelled particles lie in {have} {noun}, and {', '.join(labelled.parts)} need at least {need}"
    )


def _share_tomograms(labelled: _Labelled, generator: np.random.Generator) -> Integers:
    """Return the best of many ways to give whole tomograms to parts, as a part number per row.

    Best is: most classes in training, then most in the other parts, then nearest to the fractions, for all particles
    together and for each class.
    """
    counts = np.zeros((labelled.tomogram_count, len(labelled.names)))
    np.add.at(counts, (labelled.tomograms, labelled.codes), 1)  # (tomograms, classes)
    candidates = _candidates(labelled, generator)  # (candidates, tomograms)
    parts = range(labelled.part_count)
    held = np.stack([(candidates == part) @ counts for part in parts], axis=1)  # (candidates, parts, classes)
    untrained, missing = (held[:, 0] == 0).sum(1), (held == 0).sum((1, 2))
    best = np.lexsort((_distance(held, labelled.fractions), missing, untrained))[0]
    chosen: Integers = candidates[best][labelled.tomograms]
    return chosen


def _candidates(labelled: _Labelled, generator: np.random.Generator) -> Integers:
    """Return ways to give tomograms to parts, none of them empty: all where they are few, else random ones.

    Shape (candidates, tomograms).
    """
    parts, tomograms = labelled.part_count, labelled.tomogram_count
    if parts**tomograms <= CANDIDATES:
        every = np.indices((parts,) * tomograms).reshape(tomograms, -1).T
        used = (every[:, None, :] == np.arange(parts)[:, None]).any(2).all(1)
        return generator.permutation(every[used])
    drawn = generator.choice(parts, size=(CANDIDATES, tomograms), p=labelled.fractions)
    drawn[:, :parts] = np.arange(parts)
    return generator.permuted(drawn, axis=1)


def _distance(held: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Say how far each candidate is from the fractions: held (candidates, parts, classes) -> (candidates,)."""
    together = held.sum(2) / held[0].sum() / fractions - 1
    by_class = held / held[0].sum(0) / fractions[:, None] - 1
    distance: NDArray[np.float64] = np.abs(together).mean(1) + np.abs(by_class).mean((1, 2))
    return distance


def _obstacle(labelled: _Labelled, parts: Integers) -> str:
    """Say why whole tomograms will not do; empty where they will."""
    for part, code in _missing(labelled, parts):
        return f"with whole tomograms, class {labelled.names[code]!r} would be missing from {labelled.parts[part]}"
    shares = np.bincount(parts, minlength=labelled.part_count) / len(labelled)
    for name, share, asked in zip(labelled.parts, shares, labelled.fractions, strict=True):
        if not asked / 2 <= share <= 2 * asked:
            return (
                f"with whole tomograms, {name} would get {share:.0%} of the particles instead of {asked:.0%}"
            )
    return ""


def _check_trained(labelled: _Labelled, parts: Integers) -> None:
    """Hold that training knows every class; gaps in the other parts only blur the scores."""
    for part, code in _missing(labelled, parts):
        if labelled.parts[part] == "train":
            raise ParticleError(
                f"With whole tomograms, class {labelled.names[code]!r} would be missing from training.",
                WAY_OUT,
            )


def _missing(labelled: _Labelled, parts: Integers) -> list[tuple[int, int]]:
    """Return (part, class) pairs without any particle, training first."""
    held = np.zeros((labelled.part_count, len(labelled.names)), dtype=np.int64)
    np.add.at(held, (parts, labelled.codes), 1)
    return [(int(part), int(code)) for part, code in np.argwhere(held == 0)]
