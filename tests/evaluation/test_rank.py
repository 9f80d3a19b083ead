import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.evaluation import rank


def test_rankme_of_equal_singular_values_is_their_number():
    x = np.zeros((50, 8), np.float32)
    x[:5, :5] = 3 * np.eye(5)
    assert rank.rankme(x) == pytest.approx(5, rel=1e-4)


def test_rankme_by_hand():
    x = np.diag([4.0, 2.0, 1.0, 1.0]).astype(np.float32)
    p = np.array([4, 2, 1, 1]) / 8 + 1e-7
    assert rank.rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)


def test_rankme_does_not_centre():
    x = np.ones((10, 4)) + 1e-3 * np.random.default_rng(0).normal(size=(10, 4))
    assert rank.rankme(x) < 1.2 < rank.rankme(x - x.mean(0))


@pytest.mark.parametrize("x", [np.zeros((3, 2)), np.full((3, 2), np.nan), np.array([[1.0, np.inf]])])
def test_rankme_of_nothing_is_nan(x):
    assert np.isnan(rank.rankme(x))


def test_feature_spread_of_random_directions_and_of_one_vector():
    x = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    assert float(rank.feature_spread(x)) == pytest.approx(1, abs=0.02)
    assert float(rank.feature_spread(5 * np.ones((20, 64)) * np.arange(1, 21)[:, None])) == pytest.approx(0, abs=1e-4)


def test_feature_spread_and_cosine_by_hand():
    x = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert float(rank.feature_spread(x)) == pytest.approx(unit.std(0).mean() * np.sqrt(2), rel=1e-6)
    pairs = [unit[i] @ unit[j] for i in range(3) for j in range(3) if i != j]
    assert float(rank.mean_cosine(x)) == pytest.approx(np.mean(pairs), rel=1e-6)


def test_zero_rows_are_harmless():
    assert np.isfinite(rank.feature_spread(np.zeros((3, 4)))) and float(rank.mean_cosine(np.zeros((3, 4)))) == 0


def test_prototype_use_by_hand_inside_jit():
    p = jnp.array([[0.7, 0.3, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]])
    found = jax.jit(rank.prototype_use)(p)
    mean = np.array([0.6, 0.4])
    rows = [a * np.log(a) + b * np.log(b) for a, b in ((0.7, 0.3), (0.9, 0.1), (0.2, 0.8))]
    assert float(found["won"]) == pytest.approx(2 / 3)
    assert float(found["perplexity"]) == pytest.approx(np.exp(-(mean * np.log(mean)).sum()), rel=1e-6)
    assert float(found["entropy"]) == pytest.approx(-np.mean(rows), rel=1e-6)


def test_entropy_ends():
    np.testing.assert_allclose(rank.entropy(jnp.array([[1.0, 0, 0, 0], [0.25] * 4])), [0, np.log(4)], atol=1e-7)


@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_rankme_equals_that_of_the_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape) * 0.7 ** np.arange(shape[1])
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert rank.rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
