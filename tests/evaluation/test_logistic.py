"""The probe against scikit-learn's converged numbers, at several places where float32 or a sample could go wrong."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from histojax.common.errors import UserError
from histojax.evaluation import newton
from histojax.evaluation.logistic import fit_logistic

GOLDEN = Path(__file__).parents[1] / "golden" / "patch_eval"


@pytest.fixture(params=["nine_class", "two_class"])
def golden(request):
    return np.load(GOLDEN / f"eval_{request.param}.npz")


def tiles(seed=0, n=240, d=6, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    x = rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d))
    return (x * np.linspace(0.1, 10, d) + 3).astype(np.float32), labels


def objective(fit, x, labels):
    """The spec's formula, term by term."""
    p = fit.probabilities(x)[np.arange(len(x)), labels]
    return -np.log(p).sum() + (fit.weights**2).sum() / (2 * fit.c)


def test_golden_minimum(golden):
    fit = fit_logistic(golden["x_train"], golden["y_train"])
    assert fit.converged and fit.c == float(golden["sklearn_C"])
    p = fit.probabilities(golden["x_test"])
    np.testing.assert_allclose(p, golden["lr_tight_proba"], atol=2e-5)
    np.testing.assert_array_equal(fit.predict(golden["x_test"]), golden["lr_tight_pred"])
    np.testing.assert_allclose(fit.weights.T, golden["lr_tight_coef"], atol=1e-4)
    np.testing.assert_allclose(fit.intercept, golden["lr_tight_intercept"], atol=1e-3)
    assert fit.objective == pytest.approx(objective(fit, golden["x_train"], golden["y_train"]), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_norm_is_that_of_the_objective(classes):
    """By differences of the formula, at a point that is not the minimum yet."""
    x, labels = tiles(classes=classes)
    fit = fit_logistic(x, labels, iterations=1)
    assert not fit.converged and fit.iterations == 1
    largest = 0.0
    for name in ("weights", "intercept"):
        at = getattr(fit, name)
        for place in np.ndindex(at.shape):
            values = []
            for change in (1e-5, -1e-5):
                moved = at.copy()
                moved[place] += change
                values.append(objective(type(fit)(**(vars(fit) | {name: moved})), x, labels))
            largest = max(largest, abs(values[0] - values[1]) / 2e-5)
    assert fit.gradient_norm == pytest.approx(largest / len(x), rel=1e-4)


def test_sampled_curvature_and_float32_blocks_lead_to_the_same_minimum(monkeypatch):
    x, labels = tiles(1, n=900)
    x[:, -1] += 1000  # a far origin
    exact = fit_logistic(x, labels)
    monkeypatch.setattr(newton, "SMALL", 0)
    monkeypatch.setattr(newton, "BLOCK", 256)
    monkeypatch.setattr(newton, "FEWEST_ROWS", 300)
    monkeypatch.setattr(newton, "ROWS_A_FEATURE", 1)
    fit = fit_logistic(x, labels)
    assert fit.converged and fit.objective == pytest.approx(exact.objective, rel=1e-9)
    np.testing.assert_allclose(fit.probabilities(x), exact.probabilities(x), atol=1e-5)


def test_separable_classes_and_more_features_than_tiles():
    rng = np.random.default_rng(2)
    labels = np.arange(30) % 3
    x = (rng.normal(size=(3, 50))[labels] * 2 + rng.normal(size=(30, 50))).astype(np.float32)
    fit = fit_logistic(x, labels)
    reference = LogisticRegression(C=fit.c, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), labels)
    assert fit.converged
    np.testing.assert_allclose(fit.probabilities(x), reference.predict_proba(x), atol=1e-5)


def test_constant_columns_have_no_weight():
    x, labels = tiles()
    wide = np.concatenate([x, np.full((len(x), 1), 0.1, np.float32)], axis=1)
    fit, bare = fit_logistic(wide, labels, c=0.18), fit_logistic(x, labels, c=0.18)
    np.testing.assert_allclose(fit.weights[-1], 0, atol=1e-12)
    np.testing.assert_allclose(fit.probabilities(wide), bare.probabilities(x), atol=1e-6)


def test_classes_without_tiles_are_never_predicted():
    x, labels = tiles()
    fit = fit_logistic(x, labels * 2, classes=6)
    bare = fit_logistic(x, labels, c=0.36)
    p = fit.probabilities(x)
    np.testing.assert_allclose(p[:, [0, 2, 4]], bare.probabilities(x), atol=1e-7)
    assert (p[:, [1, 3, 5]] == 0).all()
    two = fit_logistic(*tiles(classes=2), classes=3)
    assert two.weights.shape == (6, 3) and (two.probabilities(x)[:, 2] == 0).all()


def test_same_bits_twice():
    x, labels = tiles()
    np.testing.assert_array_equal(fit_logistic(x, labels).weights, fit_logistic(x, labels).weights)


def test_chances_draw_as_many_as_asked():
    curved = np.concatenate([np.full(10, 1.0), np.full(990, 1e-3)])
    chance = newton._chances(curved, 100)
    assert chance.sum() == pytest.approx(100, rel=0.02) and (chance[:10] == 1).all()
    assert (newton._chances(curved, 1000) == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(240, int)}, "all 240 training tiles are of class 0"),
        ({"labels": np.zeros(3, int)}, "one for each of 240 tiles"),
        ({"x": np.full((240, 6), np.nan)}, "240 of 240 rows are not finite"),
        ({"c": 0}, "C=0.0 must be above 0"),
    ],
)
def test_bad_input(change, message):
    x, labels = tiles()
    with pytest.raises(UserError, match=message):
        fit_logistic(**({"x": x, "labels": labels} | change))


def test_queries_of_other_columns():
    fit = fit_logistic(*tiles())
    with pytest.raises(UserError, match="features have 5 columns, the probe was fitted on 6"):
        fit.predict(np.zeros((1, 5)))
