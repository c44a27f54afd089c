"""Splits: every labelled particle goes somewhere, classes stay together where they must, and mistakes are said."""

import numpy as np
import pytest

from cryoclass.errors import ParticleError
from cryoclass.settings import Split
from cryoclass.training.splits import assign_parts, with_unlabelled

CLASSES = ("ribosome", "proteasome", "junk")


def particles(tomograms: int, per_class: int, classes: int = 3, seed: int = 0):
    """Return shuffled labels and tomogram names with ``per_class`` particles of each class in each tomogram."""
    labels = np.tile(np.repeat(np.arange(classes), per_class), tomograms)
    names = np.repeat([f"TS_{number:03d}" for number in range(tomograms)], per_class * classes)
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels[order], list(names[order])


def count(labels, parts):
    return {part: np.bincount(labels[parts == part], minlength=3).tolist() for part in np.unique(parts)}


def test_particles_are_stratified_by_class():
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    split = assign_parts(labels, ["one"] * 75, Split(split="particle"), seed=0)
    assert count(labels, split.parts) == {"train": [30, 12, 3], "val": [10, 4, 1], "test": [10, 4, 1]}
    assert split.mode == "particle"


@pytest.mark.parametrize("split", ["particle", "tomogram", "auto"])
def test_same_seed_gives_the_same_parts_and_another_seed_others(split):
    labels, tomograms = particles(tomograms=12, per_class=3)
    parts = [assign_parts(labels, tomograms, Split(split=split), seed).parts for seed in (5, 5, 6)]
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


@pytest.mark.parametrize("tomograms", [5, 10, 40])
def test_whole_tomograms_meet_the_fractions(tomograms):
    labels, names = particles(tomograms=tomograms, per_class=4)
    split = assign_parts(labels, names, Split(), seed=1)
    assert split.mode == "tomogram"
    for name in set(names):
        assert len(set(split.parts[np.array(names) == name])) == 1
    shares = {part: np.mean(split.parts == part) for part in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.03)


def test_every_class_comes_into_every_part_though_tomograms_differ():
    names = [f"TS_{number}" for number in range(6) for _ in range(10)]
    labels = np.array(([0] * 5 + [1] * 5) * 3 + ([0] * 5 + [2] * 5) * 3)
    split = assign_parts(labels, names, Split(split="tomogram"), seed=0)
    assert all(min(counts) > 0 for counts in count(labels, split.parts).values())


def test_auto_shares_out_particles_where_a_class_lies_in_one_tomogram():
    labels, names = particles(tomograms=6, per_class=4, classes=2)
    labels[np.flatnonzero(np.array(names) == "TS_002")[:4]] = 2
    split = assign_parts(labels, names, Split(), seed=0, classes=CLASSES)
    assert split.mode == "particle"
    assert "junk" in split.reason
    assert set(split.parts[labels == 2]) == {"train", "val", "test"}


def test_auto_shares_out_particles_where_one_tomogram_holds_nearly_all():
    labels = np.array([0, 1] * 100 + [0, 1] * 4)
    names = ["big"] * 200 + ["a"] * 4 + ["b"] * 4
    split = assign_parts(labels, names, Split(), seed=0)
    assert split.mode == "particle"
    assert "instead of" in split.reason


def test_auto_says_when_tomograms_are_fewer_than_parts():
    labels, names = particles(tomograms=2, per_class=20)
    split = assign_parts(labels, names, Split(), seed=0)
    assert split.mode == "particle"
    assert "lie in 2 tomograms" in split.reason


def test_two_tomograms_are_enough_without_a_test_part():
    labels = np.array([0, 1] * 50)
    names = ["big"] * 80 + ["small"] * 20
    split = assign_parts(labels, names, Split(test_fraction=0), seed=0)
    assert split.mode == "tomogram"
    assert set(split.parts[80:]) == {"val"}


def test_unlabelled_particles_take_no_part():
    labels = np.array([0, 1, -1] * 10)
    split = assign_parts(labels, ["one"] * 30, Split(), seed=0)
    assert set(split.parts[labels < 0]) == {""}
    assert "" not in split.parts[labels >= 0]


def test_smallest_class_that_can_be_split_reaches_every_part():
    labels = np.array([0] * 30 + [1] * 3)
    split = assign_parts(labels, ["one"] * 33, Split(val_fraction=0.4, test_fraction=0.4), seed=0)
    assert sorted(split.parts[labels == 1]) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([-1, -1, -1, -1], ["No particle has a label", "--label-column"]),
        ([1, 1, 1, -1], ["All 3", "proteasome", "two classes"]),
        ([0, 0, 0, 2, 2], ["junk", "2 labelled particles", "at least 3", "--test-fraction 0"]),
    ],
)
def test_labels_that_cannot_be_split(labels, words):
    with pytest.raises(ParticleError) as raised:
        assign_parts(np.array(labels), ["one"] * len(labels), Split(), seed=0, classes=CLASSES)
    for word in words:
        assert word in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    ("labels", "test", "ways"),
    [
        (
            [0, 0, 0, 2, 2],
            0.2,
            "Label more of it, or use --freeze (scored by cross-validation), or use --test-fraction 0.",
        ),  # of two classes none can go
        ([0, 0, 0, 2], 0.2, "Label more of it, or use --freeze (scored by cross-validation)."),
        (
            [0, 0, 0, 1, 1, 1, 2],
            0.2,
            "Label more of it, or use --freeze (scored by cross-validation), or leave it out.",
        ),
        (
            [0, 0, 0, 1, 1, 1, 2, 2],
            0.2,
            "Label more of it, or use --freeze (scored by cross-validation), or leave it out, or use --test-fraction 0.",
        ),
        ([0, 0, 0, 2], 0, "Label more of it, or use --freeze (scored by cross-validation)."),
    ],
)
def test_a_way_out_leads_to_no_other_error(labels, test, ways):
    with pytest.raises(ParticleError) as raised:
        assign_parts(
            np.array(labels), ["one"] * len(labels), Split(test_fraction=test), seed=0, classes=CLASSES
        )
    assert raised.value.hint == ways
    assign_parts(
        np.array(labels),
        ["one"] * len(labels),
        Split(test_fraction=test, crossing=True),
        seed=0,
        classes=CLASSES,
    )
    if "--test-fraction" in ways:
        assign_parts(np.array(labels), ["one"] * len(labels), Split(test_fraction=0), seed=0, classes=CLASSES)


def test_whole_tomograms_that_cannot_be_shared_out():
    labels, names = particles(tomograms=2, per_class=9)
    with pytest.raises(ParticleError, match=r"in 2 tomograms.*at least 3") as raised:
        assign_parts(labels, names, Split(split="tomogram"), seed=0)
    assert "--split particle" in raised.value.hint


def test_a_class_alone_in_its_tomogram_goes_to_training_when_tomograms_stay_whole():
    labels, names = particles(tomograms=5, per_class=4, classes=2)
    labels, names = np.append(labels, [2] * 4), [*names, *["alone"] * 4]
    split = assign_parts(labels, names, Split(split="tomogram"), seed=0)
    assert set(split.parts[labels == 2]) == {"train"}


def test_classes_that_cannot_all_be_trained_with_whole_tomograms():
    labels = np.repeat([0, 1, 2], 5)
    names = list(np.repeat(["a", "b", "c"], 5))
    with pytest.raises(ParticleError, match="missing from training"):
        assign_parts(labels, names, Split(split="tomogram"), seed=0, classes=CLASSES)


@pytest.mark.parametrize("mode", ["auto", "tomogram", "particle"])
def test_rows_of_one_particle_take_the_same_part(mode):
    labels, names = particles(tomograms=6, per_class=6)
    once = assign_parts(labels, names, Split(split=mode), seed=3)
    same = np.arange(len(labels))
    elsewhere = [names[0], *names[:-1]]  # the double may be said to lie in another tomogram
    twice = assign_parts(
        np.tile(labels, 2), [*names, *elsewhere], Split(split=mode), seed=3, same=np.tile(same, 2)
    )
    assert twice.parts.tolist() == np.tile(once.parts, 2).tolist()


def test_a_class_counts_its_particles_not_its_rows():
    labels = np.array([0] * 9 + [1] * 6)
    same = np.array([*range(9), 20, 20, 20, 21, 21, 21])
    with pytest.raises(ParticleError, match="2 labelled particles"):
        assign_parts(labels, ["one"] * 15, Split(), seed=0, same=same)


def test_an_unlabelled_double_takes_no_part():
    labels = np.array([0, 1] * 9 + [-1])
    split = assign_parts(labels, ["one"] * 19, Split(), seed=0, same=np.array([*range(18), 0]))
    assert split.parts[-1] == ""
    assert "" not in split.parts[:-1]


@pytest.mark.parametrize("mode", ["tomogram", "particle"])
def test_unlabelled_particles_train_where_there_is_something_to_learn_and_nothing_held_out_is_shown(mode):
    labels, names = particles(tomograms=6, per_class=6)
    unlabelled, known = np.arange(0, len(labels), 3), np.ones(len(labels), dtype=bool)
    labels[unlabelled], known[unlabelled[:10]] = -1, False
    same = np.arange(len(labels))
    before = assign_parts(labels, names, Split(split=mode), seed=0, same=same)
    held = np.flatnonzero(before.parts == "test")[0]
    same[unlabelled[-1]] = held  # the same particle once more, in a tomogram that trains
    names[unlabelled[-1]] = names[np.flatnonzero(before.parts == "train")[0]]
    after = with_unlabelled(before, known, names, same)
    assert (after.parts[labels >= 0] == before.parts[labels >= 0]).all()
    added = np.flatnonzero((after.parts == "train") & (labels < 0))
    assert len(added) > 10
    assert not np.isin(added, [*unlabelled[:10], unlabelled[-1]]).any()
    if mode == "tomogram":
        tomograms = np.array(names)
        assert not set(tomograms[added]) & set(tomograms[np.isin(before.parts, ["val", "test"])])
    else:
        assert len(added) == len(unlabelled) - 11
