from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from histojax.common.errors import UserError
from histojax.evaluation.metrics import balanced_accuracy
from histojax.evaluation.probe import STRENGTHS, fit_ridge, ridge_probe

GOLDEN = Path(__file__).parents[1] / "golden" / "patch_eval"


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=80)
    x = rng.normal(size=(3, 6))[labels] + rng.normal(size=(80, 6)) * np.array([1, 10, 0.1, 1, 1, 5])
    return x.astype(np.float32), labels


@pytest.mark.parametrize("standardise", [True, False])
def test_equal_to_sklearn_ridge(data, standardise):
    x, labels = data
    probe = fit_ridge(x, labels, standardise=standardise, strengths=np.array([0.1]))
    z = x.astype(np.float64)
    z = (z - z.mean(0)) / (z.std(0) if standardise else 1)
    alpha = 0.1 * np.mean(z.var(0)) * len(z)
    reference = Ridge(alpha=alpha).fit(z, np.eye(3)[labels])
    np.testing.assert_allclose(probe.scores(x), reference.predict(z), atol=1e-10)


def test_strength_has_the_least_leave_one_out_error(data):
    """Against refits without each row in turn."""
    x, labels = data
    z = (x - x.mean(0)) / x.std(0)
    errors = []
    for strength in STRENGTHS:
        alpha, wrong = strength * len(z), 0.0
        for i in range(len(z)):
            rest = np.arange(len(z)) != i
            fit = Ridge(alpha=alpha).fit(z[rest], np.eye(3)[labels[rest]])
            wrong += np.sum((fit.predict(z[i : i + 1]) - np.eye(3)[labels[i]]) ** 2)
        errors.append(wrong)
    probe = fit_ridge(x, labels)
    assert probe.strength == STRENGTHS[np.argmin(errors)]
    assert probe.left_out_error == pytest.approx(min(errors) / (3 * len(z)), rel=1e-6)
    shortcut = RidgeCV(alphas=STRENGTHS * len(z)).fit(z, np.eye(3)[labels])
    assert shortcut.alpha_ == pytest.approx(STRENGTHS[np.argmin(errors)] * len(z))


def test_scale_and_offset_of_the_features_do_not_matter(data):
    x, labels = data
    a, b = fit_ridge(x, labels), fit_ridge(1000 + 50 * x.astype(np.float64), labels)
    np.testing.assert_allclose(b.scores(1000 + 50 * x.astype(np.float64)), a.scores(x), atol=1e-8)
    assert a.strength == b.strength


def test_more_features_than_tiles():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    x = rng.normal(size=(60, 200))
    x[:, :30] += 1.5 * labels[:, None]
    probe = fit_ridge(x[:40], labels[:40], standardise=False)
    alpha = probe.strength * np.mean(x[:40].var(0)) * 40
    np.testing.assert_allclose(
        probe.scores(x[40:]), Ridge(alpha=alpha).fit(x[:40], np.eye(2)[labels[:40]]).predict(x[40:]), atol=1e-9
    )
    assert balanced_accuracy(labels[40:], ridge_probe(x[:40], labels[:40], x[40:])) > 0.9


def test_beats_chance_where_the_converged_probe_does():
    golden = np.load(GOLDEN / "eval_nine_class.npz")
    predicted = ridge_probe(golden["x_train"], golden["y_train"], golden["x_test"])
    assert balanced_accuracy(golden["y_test"], predicted) > 0.85  # logistic regression: 0.97, 20-NN: 0.41


def test_constant_features_carry_nothing(data):
    x, labels = data
    wide = np.concatenate([x, np.full((80, 1), 0.1, np.float32)], axis=1)
    shifted = wide.copy()
    shifted[:, -1] = 7
    probe = fit_ridge(wide, labels)
    np.testing.assert_allclose(probe.scores(shifted), probe.scores(wide), atol=1e-12)


def test_all_features_constant_gives_the_class_shares():
    labels = np.array([0, 0, 0, 1])
    probe = fit_ridge(np.ones((4, 2), np.float32), labels)
    np.testing.assert_allclose(probe.scores(np.ones((1, 2))), [[0.75, 0.25]])


def test_same_bits_twice(data):
    x, labels = data
    np.testing.assert_array_equal(fit_ridge(x, labels).weights, fit_ridge(x, labels).weights)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.full((4, 2), np.inf), [0, 1, 0, 1], "4 of 4 rows are not finite"),
        (np.zeros((4, 2)), [0, 1, 0], "one for each of 4 tiles"),
        (np.zeros((4, 2)), [0, 1, 0, -1], "labels run from -1 to 1"),
        (np.zeros(4), [0, 1, 0, 1], r"shape \(4,\)"),
    ],
)
def test_bad_input(x, labels, message):
    with pytest.raises(UserError, match=message):
        fit_ridge(x, np.array(labels))
