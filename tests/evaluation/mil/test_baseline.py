"""The linear baseline: scikit-learn's logistic regression, Cox's at its optimum, the penalty by validation."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from histojax.evaluation.mil.baseline import PENALTIES, fit_linear
from histojax.evaluation.mil.tasks import cox_loss, probabilities

RNG = np.random.default_rng(0)
MEANS = np.concatenate([RNG.normal(size=(60, 4)), np.full((60, 1), 7.0)], axis=1)  # the last feature never changes
TRAIN, VALIDATION = np.arange(40), np.arange(40, 60)


def scores(tree, x):
    return x @ tree["head"]["kernel"] + tree["head"]["bias"]


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_those_of_logistic_regression(classes):
    labels = np.digitize(MEANS[:, 0] + RNG.normal(size=60), [0, 0.8][: classes - 1])
    tree, facts = fit_linear(MEANS, labels, TRAIN, VALIDATION, "classification", classes)
    fitted = LogisticRegression(C=5 * classes / 100, tol=1e-8, max_iter=1000).fit(MEANS[TRAIN], labels[TRAIN])
    got = probabilities(scores(tree, MEANS))
    np.testing.assert_allclose(got, fitted.predict_proba(MEANS), atol=1e-4)
    assert facts["C"] == 5 * classes / 100 and facts["converged"]


def test_a_class_that_the_training_part_lacks_has_no_probability():
    labels = np.where(MEANS[:, 0] > 0, 2, 0)
    got = probabilities(scores(fit_linear(MEANS, labels, TRAIN, VALIDATION, "classification", 3)[0], MEANS))
    assert not got[:, 1].any() and (got.argmax(axis=1) == labels).mean() > 0.9


def test_cox_regression_is_at_its_optimum_and_validation_chooses_the_penalty():
    time = np.exp(-MEANS[:, 0] + 0.3 * RNG.normal(size=60))
    targets = np.stack([time, RNG.random(60) < 0.8], axis=1)
    tree, facts = fit_linear(MEANS, targets, TRAIN, VALIDATION, "survival", 0)
    kernel = tree["head"]["kernel"]
    assert not kernel[4] and kernel[0] > 0.5 and facts["penalty"] in PENALTIES
    spread = MEANS[TRAIN, :4].std(axis=0)

    def objective(kernel):
        loss = cox_loss(np.float32(MEANS[TRAIN] @ kernel), np.float32(targets[TRAIN]), 1.0).mean()
        return float(loss) + facts["penalty"] / 2 * ((kernel[:4, 0] * spread) ** 2).sum()

    best = objective(kernel)
    for i in range(4):
        for step in (-0.05, 0.05):
            assert objective(kernel + step * (np.arange(5) == i)[:, None]) > best


def test_numbers_are_those_of_ridge_regression_and_a_small_penalty_wins_without_noise():
    wanted = MEANS[:, 0] - 2 * MEANS[:, 1] + 3
    tree, facts = fit_linear(MEANS, wanted, TRAIN, VALIDATION, "regression", 0)
    np.testing.assert_allclose(scores(tree, MEANS)[:, 0], wanted, atol=2e-3)
    assert facts["penalty"] == PENALTIES[0]
