"""Attention in blocks: the sums and gradients of the plain one, with little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.evaluation.mil import token_attention
from histojax.evaluation.mil.token_attention import attend


def plain(q, k, v, mask):
    weights = token_attention.shares(q * q.shape[-1] ** -0.5, k, mask)
    return jnp.einsum("bhts,bhsd->bhtd", weights, v)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # one head at a time, or all
def test_blocks_change_neither_sums_nor_gradients(monkeypatch, backend):
    monkeypatch.setattr(token_attention, "BLOCK", 4)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    q, k, v, slope = (rng.normal(size=(2, 3, 11, 5)).astype(np.float32) for _ in range(4))
    mask = np.arange(11) < np.array([[6], [3]])  # the last block is skipped, the second bag ends inside the first
    slope = slope * mask[:, None, :, None]

    def both(f):
        return jax.jit(jax.value_and_grad(lambda *qkv: (f(*qkv, mask) * slope).sum(), (0, 1, 2)))(q, k, v)

    (value, slopes), (expected, gradients) = both(attend), both(plain)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for got, wanted in zip(slopes, gradients):
        np.testing.assert_allclose(got, wanted, atol=2e-6)
        assert not np.asarray(got)[0, :, 6:].any()


def test_scores_that_overflow_an_exponential_are_fine():
    q = np.full((1, 1, 3, 2), 60.0, np.float32)
    v = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)
    np.testing.assert_allclose(attend(q, q, v, np.ones((1, 3), bool)), np.broadcast_to(v.mean(2), (1, 1, 3, 2)))


def test_no_array_grows_with_the_square_of_the_tiles():
    x = jax.ShapeDtypeStruct((1, 8, 20000, 64), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, 20000), jnp.bool_)
    slopes = jax.grad(lambda q, k, v, mask: attend(q, k, v, mask).sum(), (0, 1, 2))
    memory = jax.jit(slopes).lower(x, x, x, mask).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1 << 30  # all scores would be 12.8 GB
