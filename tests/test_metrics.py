"""Scores, checked against scikit-learn and against numbers worked out by hand."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from cryoclass.metrics import evaluate


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
    # Two of confidence 0.9, one right: gap 0.4. Two of confidence 0.6, both right: gap 0.4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    result = evaluate(probabilities, np.array([0, 1, 0, 1]), "ab")
    assert result.calibration_error == pytest.approx(0.4)
    assert [(point.count, point.confidence, point.accuracy) for point in result.reliability] == [
        (2, pytest.approx(0.6), 1.0),
        (2, pytest.approx(0.9), 0.5),
    ]
    for point in result.reliability:
        assert point.low < point.confidence <= point.high


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
