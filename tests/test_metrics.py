"""Scores, checked against scikit-learn and against numbers worked out by hand."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from cryoclass.metrics import evaluate, interval, score_in_words, share_in_words


@pytest.fixture
def scored():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, 300)
    logits = generator.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_scores_agree_with_scikit_learn(scored):
    probabilities, labels = scored
    result, predicted = evaluate(probabilities, labels, "abcd"), probabilities.argmax(1)
    assert result.count == 300
    assert result.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    assert result.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert result.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert result.auc == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert result.log_loss == pytest.approx(sk.log_loss(labels, probabilities))
    assert result.confusion == tuple(map(tuple, sk.confusion_matrix(labels, predicted).tolist()))
    columns = sk.precision_recall_fscore_support(labels, predicted)
    for k, score in enumerate(result.classes):
        assert (score.precision, score.recall, score.f1) == pytest.approx([c[k] for c in columns[:3]])
        assert score.support == columns[3][k]


def test_two_classes_give_the_usual_area(scored):
    probabilities, labels = scored
    pair = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], axis=1)
    truth = (labels == 0).astype(int)
    assert evaluate(pair, truth, ("rest", "a")).auc == pytest.approx(sk.roc_auc_score(truth, pair[:, 1]))


def test_calibration_error_worked_out_by_hand():
    # Ten of confidence 0.9, five right: gap 0.4. Ten of confidence 0.6, all right: gap 0.4.
    probabilities = np.repeat([[0.9, 0.1], [0.6, 0.4]], 10, axis=0)
    result = evaluate(probabilities, np.array([0, 1] * 5 + [0] * 10), "ab")
    assert result.calibration_error == pytest.approx(0.4)
    assert [(point.count, point.confidence, point.accuracy) for point in result.reliability] == [
        (10, pytest.approx(0.6), 1.0),
        (10, pytest.approx(0.9), 0.5),
    ]


def test_bins_hold_equal_numbers_however_sure_most_are():
    random = np.random.default_rng(0)
    sure = np.clip(1 - random.exponential(0.01, 200), 0.5, 1)
    points = evaluate(np.stack([sure, 1 - sure], 1), np.zeros(200, int), "ab").reliability
    assert len(points) == 15
    assert {point.count for point in points} == {13, 14}
    assert all(one.high <= two.low for one, two in itertools.pairwise(points))
    assert len(evaluate(np.stack([sure, 1 - sure], 1)[:15], np.zeros(15, int), "ab").reliability) == 1


def test_certainty_falls_into_the_last_bin_and_costs_a_finite_loss():
    result = evaluate(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), "ab")
    assert result.reliability[-1].high == 1.0
    assert result.calibration_error == pytest.approx(0.5)
    assert np.isfinite(result.log_loss)


def test_absent_classes_do_not_spoil_the_means():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    result = evaluate(probabilities, np.array([0, 1, 1]), "abc")
    assert result.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    assert result.auc == pytest.approx(1.0)
    assert result.classes[2].support == 0
    assert result.classes[2].auc is None


def test_one_true_class_has_no_area_and_warns_nobody():
    result = evaluate(np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0, 0]), "ab")
    assert result.auc is None
    assert result.accuracy == 0.5


def test_scores_go_into_json(scored):
    again = json.loads(json.dumps(evaluate(*scored, "abcd").to_dict()))
    assert again["classes"][1]["name"] == "b"
    assert sum(map(sum, again["confusion"])) == 300


# ----------------------------------------------------------------------------------------- what they are worth


def sure(predicted, labels, classes="abc"):
    """Return scores of predictions that are given with probability 0.9."""
    probabilities = np.full((len(predicted), len(classes)), 0.1 / (len(classes) - 1))
    probabilities[np.arange(len(predicted)), predicted] = 0.9
    return evaluate(probabilities, np.array(labels), classes)


@pytest.mark.parametrize(("hits", "count"), [(1, 1), (0, 1), (15, 20), (500, 1000)])
def test_intervals_agree_with_scipy(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_few_particles_are_counted_and_many_have_decimals():
    assert share_in_words(1, 1) == "1 of 1 (0.21 to 1.00)"
    assert share_in_words(29, 29).startswith("29 of 29 (0.88")
    assert share_in_words(30, 30) == "1.000"
    assert share_in_words(45, 60, always_interval=True) == "0.750 (0.63 to 0.84)"
    assert share_in_words(0, 0) == score_in_words(None, 5) == score_in_words(float("nan"), 500) == "-"
    assert (score_in_words(1.0, 1), score_in_words(0.98765, 30)) == ("1.00", "0.988")


def test_one_particle_of_a_class_gives_no_three_decimals():
    result = sure([0] * 50 + [1], [0] * 50 + [1], "ab")
    assert result.classes[1].in_words == {
        "precision": "1 of 1 (0.21 to 1.00)",
        "recall": "1 of 1 (0.21 to 1.00)",
        "F1": "1.00",
        "AUC": "1.00",
    }
    assert result.classes[0].in_words["recall"] == "1.000"
    assert result.in_words["accuracy"] == "1.000 (0.93 to 1.00)"
    assert result.in_words["macro AUC"] == "1.00"
    assert result.caveats == (
        "Few scored particles of b (1): the 95 % intervals behind the counts say how far such scores can be off.",
    )


def test_a_class_that_nobody_was_given_has_no_precision():
    result = sure([0] * 40, [0] * 30 + [1] * 10, "abc")
    assert result.classes[1].in_words["precision"] == result.classes[2].in_words["recall"] == "-"
    assert "No scored particle of c: how well that is found, nobody knows." in result.caveats


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("count", [12, 60, 600])
def test_random_answers_are_no_better_than_guessing(classes, count):
    """The rule errs in 2.5 of 100."""
    generator = np.random.default_rng(classes * count)
    names = "abcdef"[:classes]
    said = [
        sure(
            generator.integers(0, classes, count), generator.integers(0, classes, count), names
        ).above_guessing
        for _ in range(100)
    ]
    assert sum(said) <= 8


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0] * 100, [0] * 95 + [1] * 5),  # accuracy 0.95 of one answer
        ([1] * 60, [0] * 30 + [1] * 30),  # AUC 0.5
        ([0, 1], [0, 1]),  # both right, as one in two ways to deal two labels out
        ([0, 0, 1, 1], [0, 0, 1, 1]),  # all right, as one in six
        ([0] * 40, [0] * 40),  # one class scored
        ([0] * 30 + [1] * 30, [1] * 30 + [0] * 30),  # all wrong
    ],
    ids=["one answer", "half", "two right", "four right", "one class", "swapped"],
)
def test_what_one_answer_does_as_well_is_no_better_than_guessing(predicted, labels):
    result = sure(predicted, labels, "ab")
    assert not result.above_guessing
    assert result.caveats[0].startswith(
        f"No better than guessing, as far as {len(labels)} scored particles can tell"
    )


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        (
            [0] * 950 + [1] * 20 + [0] * 30,
            [0] * 950 + [1] * 50,
        ),  # rare, and 20 of 50 found: accuracy 0.97 of 0.95
        ([0] * 900 + [1] * 90 + [0] * 10, [0] * 950 + [1] * 50),  # rare, and found at a price: accuracy 0.95
        ([0, 1, 2] * 3, [0, 1, 2] * 3),
        ([0] * 22 + [1] * 28, [0] * 25 + [1] * 25),
    ],
    ids=["rare", "rare at a price", "nine right", "nearly all right"],
)
def test_what_has_learnt_is_not_called_guessing(predicted, labels):
    result = sure(predicted, labels, "abc")
    assert result.above_guessing
    assert "guessing" not in " ".join(result.caveats)


def balanced(predicted, labels):
    return np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)])


def test_chance_is_what_dealing_labels_out_at_random_gives():
    generator = np.random.default_rng(5)
    predicted, labels = generator.choice(3, 80, p=[0.6, 0.3, 0.1]), np.repeat([0, 1, 2], [50, 20, 10])
    dealt = [balanced(predicted, generator.permutation(labels)) for _ in range(2000)]
    result = sure(predicted, labels)
    assert balanced(predicted, labels) == pytest.approx(result.balanced_accuracy)
    half_a_particle = np.mean([1 / 50, 1 / 20, 1 / 10]) / 3 / 2
    assert result.by_chance - half_a_particle == pytest.approx(
        np.mean(dealt) + 1.96 * np.std(dealt), abs=0.01
    )
