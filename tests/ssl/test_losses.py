import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.ssl.losses import cross_entropy, kde, koleo
from histojax.ssl.targets import Targets


def example(rows=2, n=5, k=7, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(rows, n, dim)), rng.normal(size=(k, dim))
    p = rng.dirichlet(np.ones(k), size=(rows, n))
    return z.astype(np.float32), w.astype(np.float32), p.astype(np.float32)


def targets(p):
    return Targets(jnp.asarray(p), jnp.ones(p.shape[-1]), jnp.ones(p.shape[:-1]))


def by_hand(z, w, p, temp):
    s = z.astype(np.float64) @ w.T.astype(np.float64) / temp
    log_softmax = s - np.log(np.exp(s).sum(-1, keepdims=True))
    return -(p * log_softmax).sum(-1)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 99])
def test_cross_entropy_by_hand(chunk):
    z, w, p = example()
    ours = cross_entropy(jnp.asarray(z), jnp.asarray(w), targets(p), 0.5, chunk)
    np.testing.assert_allclose(ours, by_hand(z, w, p, 0.5), rtol=1e-5)


def test_a_target_shared_by_all_tokens():
    z, w, p = example()
    both = p[:, :1] + p[:, 1:2]  # sums to 2
    ours = cross_entropy(jnp.asarray(z), jnp.asarray(w), targets(both), 0.5, 2, mass=2.0)
    np.testing.assert_allclose(ours, by_hand(z, w, np.broadcast_to(both, p.shape), 0.5), rtol=1e-5)


def test_gradient_is_that_of_the_whole_matrix():
    z, w, p = example()

    def plain(z, w):
        return -(p * jax.nn.log_softmax(z @ w.T / 0.5)).sum()

    ours = jax.grad(lambda z, w: cross_entropy(z, w, targets(p), 0.5, 2).sum(), (0, 1))(z, w)
    for a, b in zip(ours, jax.grad(plain, (0, 1))(z, w)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_koleo_by_hand():
    x = np.random.default_rng(1).normal(size=(6, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    dots = unit @ unit.T - 2 * np.eye(6)
    nearest = unit[dots.argmax(1)]
    expected = -np.log(np.linalg.norm(unit - nearest + 1e-4, axis=1) + 1e-8)
    np.testing.assert_allclose(koleo(jnp.asarray(x, jnp.float32), 1e-4), expected, rtol=1e-4)


def test_koleo_of_equal_rows_is_capped_by_its_epsilon():
    x = jnp.ones((4, 384), jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: koleo(x, 1e-4).mean())(x)
    assert float(value) == pytest.approx(-np.log(1e-4 * 384**0.5 + 1e-8), rel=1e-5)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_koleo_pulls_on_both_members_of_a_pair():
    x = jnp.asarray([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]])
    gradient = jax.grad(lambda x: koleo(x, 1e-4)[1])(x)  # the loss of row 1, whose neighbour is row 0
    assert np.abs(gradient[0]).max() > 0.1 and not np.any(gradient[2])


def test_kde_by_hand():
    x = np.random.default_rng(2).normal(size=(6, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = [np.log(np.mean([np.exp(5 * unit[i] @ unit[j]) for j in range(6) if j != i])) for i in range(6)]
    np.testing.assert_allclose(kde(jnp.asarray(x, jnp.float32), 5.0), expected, rtol=1e-5)


def test_kde_of_equal_and_of_opposite_rows_is_its_range():
    x = jnp.ones((4, 384), jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: kde(x, 5.0).mean())(x)
    assert float(value) == pytest.approx(5, rel=1e-5) and np.isfinite(np.asarray(gradient, np.float32)).all()
    assert float(kde(jnp.asarray([[1.0, 0], [-2.0, 0]]), 5.0)[0]) == pytest.approx(-5, rel=1e-5)


def test_kde_pushes_each_row_away_from_all_others():
    x = jnp.asarray([[1.0, 0, 0], [0.9, 0.4, 0], [0, 0.1, 1.0]])
    gradient = jax.grad(lambda x: kde(x, 5.0)[1])(x)
    assert all(np.abs(row).max() > 1e-3 for row in gradient)
