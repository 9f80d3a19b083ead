"""Parts that models of bags share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.layers import init_uniform


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    """A linear layer that starts as torch's: weights and bias U(+-1/sqrt(inputs))."""
    init = init_uniform(inputs**-0.5)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, bias_init=init, rngs=rngs)


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share `rate` of its numbers at 0 and the others scaled up; x itself without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """`count` keys of one, or as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """(B, d): mean of (B, n, d) over the tokens that `mask` (B, n) has."""
    return jnp.einsum("bnd,bn->bd", x, mask.astype(x.dtype)) / mask.sum(axis=1, keepdims=True)
