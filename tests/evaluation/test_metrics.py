import numpy as np
import pytest
import sklearn.metrics as sk

from histojax.evaluation import metrics


def sklearn_scores(truth, predicted):
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "weighted_f1": sk.f1_score(truth, predicted, average="weighted"),
    }


def test_by_hand():
    truth, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, predicted), [[2, 1, 0], [0, 1, 1], [0, 0, 1]])
    found = metrics.scores(truth, predicted)
    f1 = np.array([4 / 5, 2 / 4, 2 / 3])
    expected = [4 / 6, (2 / 3 + 1 / 2 + 1) / 3, f1.mean(), (f1 * [3, 2, 1]).sum() / 6]
    np.testing.assert_allclose([found[n] for n in sklearn_scores(truth, predicted)], expected, rtol=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_sklearn_with_absent_classes(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice(rng.choice(9, 4, replace=False), 50)
    predicted = np.where(rng.random(50) < 0.5, truth, truth.min())  # predictions leave classes of the truth out
    found, expected = metrics.scores(truth, predicted), sklearn_scores(truth, predicted)
    assert found == pytest.approx(expected, rel=1e-14)
    labels = np.arange(9)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(truth, predicted, 9), sk.confusion_matrix(truth, predicted, labels=labels)
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_predicted_class_that_is_not_in_the_truth():
    truth, predicted = np.array([0, 0, 2, 2]), np.array([0, 5, 2, 2])
    assert metrics.scores(truth, predicted) == pytest.approx(sklearn_scores(truth, predicted), rel=1e-14)


def test_nothing_to_score_is_nan():
    empty = np.array([], np.int64)
    assert all(np.isnan(value) for value in metrics.scores(empty, empty).values())


@pytest.mark.parametrize(
    ("truth", "predicted", "classes", "message"),
    [
        ([0, 1], [0], None, "one length"),
        ([0, -1], [0, 1], None, "truth labels must be integers, 0 or more"),
        ([0, 1], [0.0, 1.0], None, "predicted labels must be integers"),
        ([0, 3], [0, 1], 3, "label 3 is not one of 3 classes"),
    ],
)
def test_bad_labels(truth, predicted, classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(np.array(truth), np.array(predicted), classes)
