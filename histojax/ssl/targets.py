"""Teacher targets: Sinkhorn-Knopp and softmax with a moving centre (Oquab et al. 2023, sec. 4; Caron et al. 2021)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """Distributions over prototypes in factors: P = kernel * prototype_scale * token_scale, summing to 1 per token.

    Only `kernel` (..., K) is large; the product is formed where it is used, a few tokens at a time.
    """

    kernel: jax.Array  # (..., K) exp of shifted scores
    prototype_scale: jax.Array  # (K,)
    token_scale: jax.Array  # (...,); 0 for tokens that only pad

    def probabilities(self) -> jax.Array:
        """P itself, (..., K) float32."""
        return self.kernel * self.prototype_scale * self.token_scale[..., None]


def sinkhorn(logits: jax.Array, temp: jax.Array, valid: jax.Array | None = None, iterations: int = 3) -> Targets:
    """Targets of teacher scores (..., K) balanced over all tokens at once, ending on the token normalisation.

    The reference rescales the whole matrix; here only its row and column factors are updated, which is the same
    and reads the matrix twice an iteration. Tokens that are not `valid` (...) enter no sum.
    """
    valid = jnp.ones(logits.shape[:-1], jnp.float32) if valid is None else valid.astype(jnp.float32)
    logits = logits / temp
    top = logits.max(-1)
    kernel = jnp.exp(logits - top[..., None])  # each token's best is 1: no overflow, no empty token
    count, prototypes = jnp.maximum(valid.sum(), 1.0), logits.shape[-1]
    rows = kernel.reshape(-1, prototypes)  # CPUs are slow on products with more axes
    highest = jnp.max(jnp.where(valid > 0, top, -jnp.inf))
    # scores of unit features are within 50 temperatures of each other; the floor only keeps wilder ones from vanishing
    start = jnp.where(valid > 0, jnp.exp(jnp.clip(top - highest, -80.0, 0.0)), 0.0)

    def balance(_, scales):
        _, token = scales
        mass = jnp.einsum("tk,t->k", rows, token.reshape(-1), precision="highest")
        prototype = _reciprocal(mass * prototypes)
        mass = jnp.einsum("tk,k->t", rows, prototype, precision="highest").reshape(token.shape)
        return prototype, _reciprocal(mass * count) * valid

    empty = jnp.zeros((prototypes,), jnp.float32)
    prototype, token = jax.lax.fori_loop(0, iterations, balance, (empty, start))
    return Targets(kernel, prototype, token * count)


def _reciprocal(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def centred_softmax(logits: jax.Array, temp: jax.Array, centre: jax.Array, valid: jax.Array | None = None) -> Targets:
    """Targets softmax((scores - centre) / temp) of teacher scores (..., K), centre (K,)."""
    shifted = (logits - centre) / temp
    kernel = jnp.exp(shifted - shifted.max(-1, keepdims=True))
    token = 1 / kernel.sum(-1)
    token = token if valid is None else token * valid
    return Targets(kernel, jnp.ones((logits.shape[-1],), jnp.float32), token)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Centre:
    """A moving centre (K,) that lags: a step's mean enters when the next step begins."""

    value: jax.Array  # (K,)
    pending: jax.Array  # (K,) mean of the last step's teacher scores

    @classmethod
    def start(cls, value: jax.Array) -> Centre:
        """With nothing pending: applying it leaves `value` as it is."""
        return cls(value, value)

    def apply(self, momentum: float = 0.9) -> jax.Array:
        """The centre (K,) that this step uses."""
        return momentum * self.value + (1 - momentum) * self.pending


def masked_mean(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """(K,): mean over the valid tokens of each shard, then over shards; scores (G, M, K), valid (G, M)."""
    weight = valid / jnp.maximum(valid.sum(-1, keepdims=True), 1.0) / valid.shape[0]
    return jnp.einsum("gmk,gm->k", logits, weight, precision="highest")
