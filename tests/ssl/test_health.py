import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.ssl import health


def test_spread_of_random_directions_and_of_one_vector():
    x = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    assert float(health.feature_spread(x)) == pytest.approx(1, abs=0.02)
    assert float(health.feature_spread(5 * np.ones((20, 64)) * np.arange(1, 21)[:, None])) == pytest.approx(0, abs=1e-4)


def test_spread_by_hand_over_one_axis_or_two():
    x = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for rows in (x, x.reshape(2, 2, 2)):
        assert float(health.feature_spread(rows)) == pytest.approx(unit.std(0).mean() * np.sqrt(2), rel=1e-6)
    assert np.isfinite(health.feature_spread(np.zeros((3, 4))))


def test_entropy_and_prototypes_by_hand_inside_jit():
    p = jnp.array([[0.7, 0.3, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]])
    rows = [a * np.log(a) + b * np.log(b) for a, b in ((0.7, 0.3), (0.9, 0.1), (0.2, 0.8))]
    np.testing.assert_allclose(jax.jit(health.entropy)(p), np.negative(rows), rtol=1e-6)
    assert float(jax.jit(health.prototype_use)(p)) == pytest.approx(2 / 3)
    assert float(health.prototype_use(jnp.repeat(p, 4, axis=0)[None])) == pytest.approx(2 / 4)


def test_ends_of_the_entropy():
    np.testing.assert_allclose(health.entropy(jnp.array([[1.0, 0, 0, 0], [0.25] * 4])), [0, np.log(4)], atol=1e-7)
