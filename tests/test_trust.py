"""Answers that can be trusted: calibrated probabilities, and a score for what no class is like."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import NETWORK, table
from torch import nn

from cryoclass.calibration import at_temperature, fit_temperature
from cryoclass.classifier import load_model
from cryoclass.familiarity import ENOUGH, Familiarity, Learnt, fit_familiarity
from cryoclass.inference.engines import TorchEngine
from cryoclass.particles import read_particles
from cryoclass.training.folds import shared_out
from cryoclass.training.trust import calibrate

RANDOM = np.random.default_rng(0)


def classes_of(count, width=20, apart=6.0, each=60, seed=0):
    """Return embeddings and classes of Gaussian clouds, longer along one direction."""
    random = np.random.default_rng(seed)
    means = random.normal(0, 1, (count, width))
    means *= apart / np.linalg.norm(means, axis=1, keepdims=True)
    targets = np.repeat(np.arange(count), each)
    spread = random.normal(0, 1, (len(targets), width)) * np.r_[3.0, np.ones(width - 1)]
    return (means[targets] + spread).astype(np.float32), targets


def learnt(embedding, targets, held_out=None, *, natural=False):
    held = np.zeros(len(targets), bool) if held_out is None else held_out
    return Learnt(embedding=embedding, targets=targets, held_out=held, natural_units=natural)


def scores(model, embedding):
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(embedding, np.float32))).numpy()


# ------------------------------------------------------------------------------------------- unknown score


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("each", [12, 60])
def test_of_known_particles_about_one_in_twenty_lies_above_1(frozen, each):
    below = []
    for seed in range(10):
        embedding, targets = classes_of(4, each=each + 100, seed=seed)
        rows = np.arange(len(targets)) % (each + 100)
        known, held_out = rows < each, rows[rows < each] % 3 == 0
        model, usual = fit_familiarity(learnt(embedding[known], targets[known], held_out), frozen=frozen)
        assert (usual.crossed, usual.count) == (frozen, 4 * each if frozen else held_out.sum())
        below.append((scores(model, embedding[~known]) < 1).mean())
    assert 0.92 < np.mean(below) < 0.985


def test_what_lies_elsewhere_is_unknown_whichever_way():
    embedding, targets = classes_of(3)
    model, _ = fit_familiarity(learnt(embedding, targets), frozen=True)
    away = RANDOM.normal(0, 1, (50, 20))
    away *= 30 / np.linalg.norm(away, axis=1, keepdims=True)
    assert scores(model, away).min() > 1
    assert np.argmin(scores(model, np.stack([embedding[targets == 0].mean(0), away[0]]))) == 0


def test_a_direction_in_which_a_class_is_wide_counts_less():
    embedding, targets = classes_of(3)
    model, _ = fit_familiarity(learnt(embedding, targets), frozen=True)
    middle = embedding[targets == 1].mean(0)
    wide, narrow = (middle + 9 * np.eye(20, dtype=np.float32)[axis] for axis in (0, 5))
    assert scores(model, wide[None])[0] < 0.8 * scores(model, narrow[None])[0]


def test_of_few_particles_the_limit_is_wider():
    few, many = (
        fit_familiarity(learnt(*classes_of(2, each=each)), frozen=True)[0] for each in (4, ENOUGH * 10)
    )
    point = classes_of(2)[0][:1]
    assert scores(few, point)[0] < scores(many, point)[0]


def test_one_label_of_each_class_says_nothing_of_what_is_usual():
    embedding, targets = classes_of(5, each=1)
    assert fit_familiarity(learnt(embedding, targets), frozen=True) is None
    assert fit_familiarity(learnt(embedding, targets, natural=True), frozen=True) is None
    embedding, targets = classes_of(5, each=2)
    assert fit_familiarity(learnt(embedding, targets, natural=True), frozen=True) is not None


def test_what_a_network_has_learnt_from_says_nothing_where_others_were_held_out():
    """After fine-tuning, the particles that taught lie far closer to their class than any other does."""
    embedding, targets = classes_of(2, each=40)
    held_out = np.arange(80) % 2 == 0
    means = np.stack([embedding[targets == k].mean(0) for k in (0, 1)])[targets]
    tight = np.where(held_out[:, None], embedding, means + 0.2 * (embedding - means)).astype(np.float32)
    tuned, usual = fit_familiarity(learnt(tight, targets, held_out), frozen=False)
    assert (usual.count, usual.crossed) == (40, False)
    assert (scores(tuned, embedding) < 1).mean() > 0.85
    wrong, _ = fit_familiarity(learnt(tight, targets, held_out), frozen=True)
    assert (scores(wrong, embedding) < 1).mean() < (scores(tuned, embedding) < 1).mean()


def test_scores_are_the_same_where_matrices_are_multiplied_in_bfloat16():
    """As on a GPU, where the network runs under autocast."""
    model, _ = fit_familiarity(learnt(*classes_of(3)), frozen=True)
    points = classes_of(3, seed=1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        on_a_gpu = scores(model, points)
    assert np.allclose(on_a_gpu, scores(model, points), rtol=1e-6)


def test_scores_survive_half_precision_within_its_bits():
    model, _ = fit_familiarity(learnt(*classes_of(3)), frozen=True)
    points = classes_of(3, seed=1)[0]
    before = scores(model, points)
    assert np.abs(scores(model.half(), points) - before).max() < 1e-2 * before.max()
    assert isinstance(model, Familiarity)


# --------------------------------------------------------------------------------------------- temperature


def told(count=4000, sharpness=1.0, classes=4):
    """Return logits that mean what they say, made sharper or duller, and the true classes."""
    logits = RANDOM.normal(0, 2, (count, classes))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (chances.cumsum(1) > RANDOM.random((count, 1))).argmax(1)
    return sharpness * logits, truth


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_too_much_and_too_little_confidence(sharpness):
    assert fit_temperature(*told(sharpness=sharpness)) == pytest.approx(sharpness, rel=0.15)


def test_a_few_that_are_all_right_do_not_make_it_sure():
    logits = 10 * np.eye(3)[[0, 1, 2, 0, 1]]
    temperature = fit_temperature(logits, np.array([0, 1, 2, 0, 1]))
    said = at_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), temperature)
    assert said.max(1) == pytest.approx(6 / 7, abs=0.01)


def test_the_temperature_goes_into_the_head_and_into_what_it_has_said():
    torch.manual_seed(0)
    head, x = nn.Linear(8, 3), torch.randn(5, 8)
    with torch.no_grad():
        logits = head(x)
        said = {"probabilities": logits.softmax(1).numpy(), "logits": logits.numpy()}
        changed = calibrate(head, said, 2.5)
        assert np.allclose(changed["logits"], head(x).numpy(), atol=1e-6)
        assert np.allclose(changed["probabilities"], (logits / 2.5).softmax(1).numpy(), atol=1e-6)


# ---------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("freeze", [False, True])
def test_the_card_says_on_what_answers_rest(here, cryoclass, freeze):
    how = ("--freeze",) if freeze else ("-n", 2)
    assert cryoclass("finetune", "Extract/particles.star", *NETWORK, *how, "-o", "F").status == 0
    card = json.loads((here / "F" / "model.json").read_text())
    assert [*card["outputs"]] == ["probabilities", "logits", "unknown_score", "embedding"]
    fitted_on, particles = ("cross-validation", 24) if freeze else ("validation", 12)
    assert (card["calibration"]["fitted_on"], card["calibration"]["particles"]) == (fitted_on, particles)
    assert {"temperature", "error_before", "error_after", "measured_on"} <= card["calibration"].keys()
    assert card["familiarity"] == {"particles": particles, "left_out_in_turn": freeze}
    written = table(here / "F" / "predictions.star")
    assert (written["cryoclassUnknownScore"].astype(float) > 0).all()


def test_predict_writes_how_unlike_everything_learnt_a_particle_is(here, trained, cryoclass, monkeypatch):
    model = ("--model", trained.root / "Finetune", "-o", "P", "--overwrite")
    assert cryoclass("predict", "Extract/particles.star", *model).status == 0
    said = table(here / "P" / "particles.star")
    unknown = said["cryoclassUnknownScore"].astype(float)
    assert set(said["cryoclassStatus"]) == {"done"}
    assert 0 < unknown.min() < unknown.max()

    def again(*_ignored):
        raise AssertionError("a second pass of the network")

    monkeypatch.setattr(TorchEngine, "run", again)
    limit = float(np.median(unknown))
    ran = cryoclass("predict", "Extract/particles.star", *model, "--unknown-threshold", limit)
    assert ran.status == 0, ran.err
    then = table(here / "P" / "particles.star")
    beyond = unknown > limit
    assert (then["cryoclassStatus"][beyond] == "unknown").all()
    assert (then["cryoclassClassName"][beyond] == "unknown").all()
    assert (then["rlnClassNumber"].astype(int) > 0).tolist() == (~beyond).tolist()
    assert f"{beyond.sum()} above --unknown-threshold" in ran.out


def test_an_exported_file_gives_the_same_unknown_scores(here, trained, exported, cryoclass):
    for name, model in (
        ("T", ("--model", trained.root / "Finetune")),
        ("O", ("--onnx", exported.root / "model.onnx")),
    ):
        assert cryoclass("predict", "Extract/particles.star", *model, "-o", name).status == 0
    torch_said, onnx_said = (
        table(here / name / "particles.star")["cryoclassUnknownScore"].astype(float) for name in "TO"
    )
    assert np.allclose(torch_said, onnx_said, rtol=1e-4)


def test_a_model_without_an_unknown_score_is_refused_before_any_box_is_read(here, trained, cryoclass):
    shutil.copytree(trained.root / "Finetune", "Old")
    classifier, card = load_model(Path("Old"))
    classifier.familiarity = None
    from cryoclass.classifier import save_model

    outputs = {name: axes for name, axes in card.outputs.items() if name != "unknown_score"}
    save_model(Path("Old"), classifier, card.replace(outputs=outputs))
    asked = ("predict", "Extract/particles.star", "--model", "Old", "-o", "P")
    ran = cryoclass(*asked, "--unknown-threshold", 1)
    assert (ran.status, (here / "P").exists()) == (2, False)
    assert "this model gives none" in ran.err
    assert cryoclass(*asked).status == 0
    assert "cryoclassUnknownScore" not in table(here / "P" / "particles.star")


# ------------------------------------------------------------------------------------------- few labels


def with_labels(each: int) -> Path:
    """Write a table of which the first particles of each class alone are labelled."""
    particles = read_particles(Path("Extract/particles.star"))
    seen, labels = Counter(), []
    for label in particles.labels("cryoclassLabel"):
        seen[label] += 1
        labels.append(label if seen[label] <= each else "None")
    path = Path(f"few{each}.star")
    particles.with_columns({"cryoclassLabel": labels}).write(path)
    return path


def test_one_label_of_each_class_makes_a_model_and_no_score(here, cryoclass):
    star = with_labels(1)
    ran = cryoclass("finetune", star, "--device", "cpu", "-o", "F")
    assert ran.status == 0, ran.err
    assert "the head alone is fitted (as with --freeze), to all of them" in ran.err
    assert "0 particles: one label of a class says nothing of others" in " ".join(ran.out.split())
    card = json.loads((here / "F" / "model.json").read_text())
    assert (card["calibration"], card["metrics"]) == ({}, {})
    assert (here / "F" / "report.html").exists()
    assert cryoclass("predict", "Extract/particles.star", "--model", "F", "-o", "P").status == 0


def test_two_labels_of_each_class_are_scored_by_cross_validation(here, cryoclass):
    ran = cryoclass("finetune", with_labels(2), "--device", "cpu", "-o", "F")
    assert ran.status == 0, ran.err
    assert "nothing held out, because class 'aldolase' has 2 labelled" in " ".join(ran.err.split())
    scores = json.loads((here / "F" / "metrics.json").read_text())
    assert [*scores] == ["crossed"]
    assert scores["crossed"]["count"] == 6
    assert set(table(here / "F" / "predictions.star")["cryoclassSplit"]) == {"crossed"}
    assert "by class (cross-validation)" in ran.out


def test_all_labels_teach_where_nothing_is_to_be_held_out(here, cryoclass):
    nothing = ("--val-fraction", 0, "--test-fraction", 0)
    ran = cryoclass("finetune", "Extract/particles.star", *NETWORK, "--freeze", *nothing, "-o", "F")
    assert ran.status == 0, ran.err
    assert json.loads((here / "F" / "metrics.json").read_text())["crossed"]["count"] == 36
    ran = cryoclass("finetune", "Extract/particles.star", *NETWORK, *nothing, "-o", "G")
    assert (ran.status, (here / "G").exists()) == (2, False)
    assert "Add --freeze" in ran.err


def test_a_recipe_that_was_asked_for_is_not_changed(here, cryoclass):
    ran = cryoclass("finetune", with_labels(2), *NETWORK, "-o", "F")
    assert ran.status == 1
    assert "each class needs at least 3" in ran.err
    assert "use --freeze (scored by cross-validation)" in " ".join(ran.err.split())
    assert not (here / "F").exists()


@pytest.mark.parametrize(
    ("groups", "kept"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], True),  # both classes in both tomograms
        ([0, 0, 0, 0, 1, 1, 1, 1], False),  # each class in a tomogram of its own
    ],
)
def test_rows_of_a_tomogram_stay_together_where_every_class_can_still_be_learnt(groups, kept):
    targets, tomograms = np.repeat([0, 1], 4), np.array(groups)
    rounds = shared_out(targets, [tomograms])
    assert sorted(np.concatenate([out for _, out in rounds])) == list(range(8))
    for rest, out in rounds:
        assert not set(rest) & set(out)
        assert set(targets[rest]) == {0, 1}
        if kept:
            assert not set(tomograms[rest]) & set(tomograms[out])


def test_doubles_of_a_particle_stay_together_and_a_class_of_one_is_never_scored():
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    same = np.array([5, 5, 6, 7, 8, 8, 9, 10, 11])
    rounds = shared_out(targets, [np.zeros(9, int), same])
    assert sorted(np.concatenate([out for _, out in rounds])) == list(range(8))
    for rest, out in rounds:
        assert not set(same[rest]) & set(same[out])
        assert 8 in rest
    assert shared_out(np.arange(4), [np.arange(4)]) == []
