"""Scores against scikit-learn and scipy, and scores of weights against those of the rows repeated."""

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import stats

from histojax.evaluation import metrics, weighted


def called(seed, classes, n=60, digits=1):
    """Truth, predictions and probabilities, rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    raw = rng.random((n, classes)) + 0.5 * np.eye(classes)[truth]
    p = np.round(raw / raw.sum(1, keepdims=True), digits)
    p[:, -1] = np.maximum(1 - p[:, :-1].sum(1), 0)
    p /= p.sum(1, keepdims=True)
    return truth, p.argmax(1), p


def reference(truth, predicted, p, classes):
    labels = np.arange(classes)
    if classes == 2:
        auroc = sk.roc_auc_score(truth, p[:, 1])
    else:
        auroc = sk.roc_auc_score(truth, p, multi_class="ovo", labels=labels)
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "weighted_f1": sk.f1_score(truth, predicted, average="weighted"),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "kappa": sk.cohen_kappa_score(truth, predicted, labels=labels),
        "quadratic_kappa": sk.cohen_kappa_score(truth, predicted, labels=labels, weights="quadratic"),
        "auroc": auroc,
        "brier": sk.brier_score_loss(truth, p if classes > 2 else p[:, 1], labels=labels),
        "log_loss": sk.log_loss(truth, p, labels=labels),
    }


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_equals_sklearn(classes):
    truth, predicted, p = called(classes, classes)
    found = metrics.classification_scores(truth, predicted, p)
    ece = found.pop("ece")
    assert found == pytest.approx(reference(truth, predicted, p, classes), rel=1e-12)
    assert ece == pytest.approx(calibration_error(truth, p), rel=1e-12)


def calibration_error(truth, p, bins=15):
    top, right, error = p.max(1), p.argmax(1) == truth, 0.0
    for low in np.arange(bins) / bins:
        inside = (top > low + 1e-12) & (top <= low + 1 / bins + 1e-12)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return error


@pytest.mark.parametrize("classes", [2, 4])
def test_weights_equal_repeated_rows(classes):
    truth, predicted, p = called(9, classes, n=40)
    drawn = np.random.default_rng(0).integers(40, size=(3, 40))
    counts = np.stack([np.bincount(rows, minlength=40) for rows in drawn]).astype(float)
    found = weighted.classification_scorer(truth, predicted, p, classes)(counts)
    for i, rows in enumerate(drawn):
        expected = metrics.classification_scores(truth[rows], predicted[rows], p[rows], classes)
        assert {name: value[i] for name, value in found.items()} == pytest.approx(expected, rel=1e-12)


def test_slices_do_not_change_the_answer(monkeypatch):
    truth, predicted, p = called(3, 3, n=30)
    weights = np.random.default_rng(1).integers(3, size=(7, 30)).astype(float)
    whole = weighted.classification_scorer(truth, predicted, p)(weights)
    monkeypatch.setattr(weighted, "AT_ONCE", 200)
    sliced = weighted.classification_scorer(truth, predicted, p)(weights)
    np.testing.assert_array_equal(sliced["auroc"], whole["auroc"])


def test_absent_class_is_left_out_and_one_class_alone_is_undefined():
    truth, predicted, p = called(4, 3)
    some = truth != 1
    found = metrics.classification_scores(truth[some], predicted[some], p[some])
    pairs = [sk.roc_auc_score(truth[some] == c, p[some, c]) for c in (0, 2)]
    assert found["auroc"] == pytest.approx(np.mean(pairs), rel=1e-12)
    alone = metrics.classification_scores(truth[truth == 0], truth[truth == 0], p[truth == 0])
    assert np.isnan(alone["auroc"]) and np.isnan(alone["kappa"]) and alone["accuracy"] == 1
    empty = metrics.classification_scores(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    assert all(np.isnan(value) for value in empty.values())


def test_without_probabilities():
    truth, predicted, _ = called(5, 3)
    assert set(metrics.classification_scores(truth, predicted)) == {
        *("accuracy", "balanced_accuracy", "weighted_f1", "macro_f1", "kappa", "quadratic_kappa")
    }


def numbers(seed=0, n=50):
    rng = np.random.default_rng(seed)
    truth = np.round(rng.normal(size=n), 1) + 1e6
    return truth, np.round(truth - 1e6 + rng.normal(size=n), 1) + 1e6


def test_regression_equals_sklearn_and_scipy():
    truth, predicted = numbers()
    expected = {
        "r2": sk.r2_score(truth, predicted),
        "mae": sk.mean_absolute_error(truth, predicted),
        "pearson": stats.pearsonr(truth, predicted)[0],
        "spearman": stats.spearmanr(truth, predicted)[0],
    }
    assert metrics.regression_scores(truth, predicted) == pytest.approx(expected, rel=1e-8)


def test_regression_weights_equal_repeated_rows():
    truth, predicted = numbers(1)
    rows = np.random.default_rng(2).integers(50, size=50)
    found = weighted.regression_scorer(truth, predicted)(np.bincount(rows, minlength=50)[None].astype(float))
    expected = metrics.regression_scores(truth[rows], predicted[rows])
    assert {name: value[0] for name, value in found.items()} == pytest.approx(expected, rel=1e-9)


def test_constants_have_no_correlation():
    found = metrics.regression_scores(np.full(5, 0.1), np.arange(5.0))
    assert np.isnan(found["pearson"]) and np.isnan(found["spearman"]) and np.isnan(found["r2"])


def concordance(time, event, risk):
    right = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 * (risk[i] == risk[j])
    return right / pairs


def test_concordance_by_hand_and_of_repeated_rows(monkeypatch):
    rng = np.random.default_rng(3)
    time, event, risk = rng.integers(1, 12, 40).astype(float), rng.integers(2, size=40), rng.integers(6, size=40)
    assert metrics.survival_scores(time, event, risk)["concordance"] == pytest.approx(concordance(time, event, risk))
    rows = rng.integers(40, size=40)
    monkeypatch.setattr(weighted, "AT_ONCE", 100)
    found = weighted.survival_scorer(time, event, risk)(np.bincount(rows, minlength=40)[None].astype(float))
    assert found["concordance"][0] == pytest.approx(concordance(time[rows], event[rows], risk[rows]))
    assert np.isnan(metrics.survival_scores(time, np.zeros(40), risk)["concordance"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.classification_scores(np.zeros(3, int), np.zeros(3, int), np.ones((2, 2))), "expected \\(3,"),
        (lambda: metrics.classification_scores(np.zeros(2, int), np.zeros(2, int), np.full((2, 2), 1.5)), "0 to 1"),
        (lambda: metrics.classification_scores(np.full(2, 3), np.zeros(2, int), np.ones((2, 2)) / 2), "label 3"),
        (lambda: metrics.regression_scores(np.zeros(3), np.zeros(2)), "one length"),
        (lambda: metrics.regression_scores(np.array([0, np.nan]), np.zeros(2)), "truth must be finite"),
        (lambda: metrics.survival_scores(np.zeros(2), np.full(2, 2), np.zeros(2)), "events must be 0 or 1"),
    ],
)
def test_bad_arrays(call, message):
    with pytest.raises(ValueError, match=message):
        call()
