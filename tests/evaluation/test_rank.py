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


@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_rankme_equals_that_of_the_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape) * 0.7 ** np.arange(shape[1])
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert rank.rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
