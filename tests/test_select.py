"""Particles of a class by the error that is accepted: what is promised, from what predict wrote."""

from pathlib import Path

import numpy as np
import pytest
from cli_helpers import table

from cryoclass.inference.engines import TorchEngine
from cryoclass.selection import (
    kept_by_precision,
    kept_by_probability,
    kept_by_recall,
    promises,
    ranked,
)


def drawn(count=20_000, seed=0):
    """Return probabilities of two classes, and which of those particles truly are of the first."""
    random = np.random.default_rng(seed)
    own = random.beta(0.4, 0.8, count)
    return np.stack([own, 1 - own], 1), random.random(count) < own


# ------------------------------------------------------------------------------------------ what is promised


@pytest.mark.parametrize("precision", [0.99, 0.95, 0.8])
def test_what_is_promised_is_kept_where_probabilities_mean_what_they_say(precision):
    probabilities, true = drawn()
    ranking = ranked(probabilities, 0, np.ones(len(true), bool))
    kept = kept_by_precision(ranking, precision)
    promise, found = ranking.at(kept), true[ranking.rows[:kept]]
    assert promise.precision >= precision > ranking.at(kept + 1).precision
    assert promise.precision == pytest.approx(found.mean(), abs=0.02)
    assert promise.recall == pytest.approx(found.sum() / true.sum(), abs=0.02)
    assert promise.false == pytest.approx((~found).sum(), rel=0.2)


def test_the_interval_holds_in_about_19_of_20_lists():
    held = []
    for seed in range(200):
        probabilities, true = drawn(400, seed)
        ranking = ranked(probabilities, 0, np.ones(400, bool))
        promise = ranking.at(100)
        held.append(promise.low <= true[ranking.rows[:100]].mean() <= promise.high)
    assert 0.9 <= np.mean(held) <= 1.0


def test_a_class_keeps_only_particles_of_which_it_is_the_most_probable():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.95, 0.05]])
    ranking = ranked(probabilities, 0, np.array([True, True, True, False]))
    assert ranking.rows.tolist() == [0, 2]
    assert ranking.total == pytest.approx(2.0)
    assert kept_by_precision(ranking, 0.85) == 1
    assert kept_by_precision(ranking, 0.8) == 2
    assert kept_by_precision(ranking, 0.95) == 0
    assert kept_by_probability(ranking, 0.7) == 2
    assert kept_by_recall(ranking, 0.4) == 1
    assert kept_by_recall(ranking, 0.8) == 2
    assert kept_by_recall(ranking, 0.9) == 0, "all of them together hold 0.8"


def test_thresholds_at_which_nothing_changes_are_one_line():
    probabilities = np.array([[0.99, 0.01], [0.55, 0.45]])
    found = promises(ranked(probabilities, 0, np.ones(2, bool)))
    assert [promise.kept for promise in found] == [2, 1]
    assert promises(ranked(probabilities, 1, np.ones(2, bool))) == []


# ---------------------------------------------------------------------------------------- the command line


@pytest.fixture
def predicted(here, trained, cryoclass) -> Path:
    model = ("--model", trained.root / "Finetune")
    assert cryoclass("predict", "Extract/particles.star", *model, "-o", "P").status == 0
    return here / "P"


def test_select_writes_the_rows_of_a_class_without_a_second_pass(predicted, cryoclass, monkeypatch):
    def again(*_ignored):
        raise AssertionError("a second pass of the network")

    monkeypatch.setattr(TorchEngine, "run", again)
    said = table(predicted / "particles.star")
    counts = said["cryoclassClassName"].value_counts()
    name = counts.index[0]
    ran = cryoclass(
        "select", "P", "--class", name, "--min-probability", 0, "--max-unknown", 1000, "-o", "all.star"
    )
    assert ran.status == 0, ran.err
    kept = table(Path("all.star"))
    assert len(kept) == counts.iloc[0]
    assert f"{len(kept)} of {len(said)}" in ran.out
    number = kept["rlnClassNumber"].iloc[0]
    own = kept[f"cryoclassProbability{number}"].astype(float)
    expected = kept["cryoclassExpectedPrecision"].astype(float)
    assert expected.min() == pytest.approx(own.mean(), abs=1e-4)
    assert expected.max() == pytest.approx(own.max(), abs=1e-4)
    original = said[said["cryoclassClassName"] == name]
    shared = [column for column in original if column != "cryoclassExpectedPrecision"]
    assert kept[shared].to_numpy().tolist() == original[shared].to_numpy().tolist(), "nothing is lost"


def test_each_way_keeps_what_it_says(predicted, cryoclass):
    said = table(predicted / "particles.star")
    name = said["cryoclassClassName"].value_counts().index[0]
    typed = ("select", "P", "--class", name, "--max-unknown", 1000, "--overwrite", "-o", "s.star")
    assert cryoclass(*typed, "--top", 3).status == 0
    top = table(Path("s.star"))
    assert len(top) == 3
    least = top["rlnMaxValueProbDistribution"].astype(float).min()
    assert cryoclass(*typed, "--min-probability", f"{least - 1e-6:.6f}").status == 0
    assert len(table(Path("s.star"))) == 3
    assert cryoclass(*typed, "--min-recall", 0.01).status == 0
    assert len(table(Path("s.star"))) == 1
    ran = cryoclass(*typed, "--max-fdr", 0)
    assert ran.status == 1
    assert f"--max-fdr 0 cannot be met for class {name}" in " ".join(ran.err.split())


def test_what_is_unlike_everything_learnt_is_left_out(predicted, cryoclass):
    said = table(predicted / "particles.star")
    scores = said["cryoclassUnknownScore"].astype(float)
    limit = float(np.median(scores))
    name = said["cryoclassClassName"].value_counts().index[0]
    typed = ("select", "P", "--class", name, "--min-probability", 0, "-o", "s.star")
    ran = cryoclass(*typed, "--max-unknown", limit)
    assert ran.status == 0, ran.err
    assert f"left out: {(scores > limit).sum()} of {len(said)} particles" in ran.err
    assert table(Path("s.star"))["cryoclassUnknownScore"].astype(float).max() <= limit


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--class aldolase", "typed is none of them"),
        ("--class aldolase --top 3 --max-fdr 0.1", "typed is --max-fdr and --top"),
        ("--class nobody --top 3", "--class is nobody; it must be one of aldolase"),
        ("--class aldolase --top 3 -o s.txt", "must end in .star"),
    ],
)
def test_mistakes_are_told(predicted, cryoclass, typed, words):  # noqa: ARG001
    ran = cryoclass("select", "P", *typed.split())
    assert ran.status == 2
    assert words in " ".join(ran.err.split())


def test_a_folder_that_predict_has_not_written_is_refused(here, cryoclass):  # noqa: ARG001
    ran = cryoclass("select", "Extract", "--class", "a", "--top", 1)
    assert ran.status == 2
    assert "no column cryoclassStatus" in ran.err


def test_predict_writes_what_can_be_had_at_which_error(predicted):
    lines = (predicted / "thresholds.csv").read_text().splitlines()
    assert lines[0] == "class,threshold,kept,precision,low,high,recall,false"
    classes = [line.split(",")[0] for line in lines[1:]]
    assert set(classes) <= {"aldolase", "apoferritin", "beta_galactosidase"}
    assert classes
