"""Teacher targets: Sinkhorn-Knopp and softmax with a moving centre (Oquab et al. 2023, sec. 4; Caron et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from histojax.ssl.columns import Columns
from histojax.ssl.heads import logits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """Distributions over prototypes in factors: P = kernel * prototype_scale * token_scale, summing to 1 per token.

    Only `kernel` (..., K) is large; the product is formed where it is used, a few tokens at a time.
    """

    kernel: jax.Array  # (..., K) exp of shifted scores
    prototype_scale: jax.Array  # (K,)
    token_scale: jax.Array  # (...,); 0 for tokens that only pad

    def places(self, rows: Any, whole: Any) -> Targets:
        """What has rows, and what all rows share, as a tree of the same form."""
        return Targets(rows, whole, rows)

    def probabilities(self) -> jax.Array:
        """P itself, (..., K) float32."""
        return self.kernel * self.prototype_scale * self.token_scale[..., None]

    def rows(self, columns: Columns, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(kernel (tokens, K), token scale (tokens,)) of part i; a target that all columns share is repeated."""
        kernel, scale = self.kernel, self.token_scale
        if kernel.shape[1] == columns.n:
            return columns.rows(kernel, i), columns.rows(scale, i)
        kernel, scale = (jnp.repeat(x, columns.size, axis=1) for x in (kernel, scale))
        return kernel.reshape(-1, kernel.shape[-1]), scale.reshape(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """A teacher's scores (R, n, K) that are not there yet: as many as the losses look at are formed at a time."""

    z: jax.Array  # (R, n, bottleneck)
    prototypes: jax.Array  # (K, bottleneck)

    def rows(self, columns: Columns, i: jax.Array) -> jax.Array:
        """(tokens, K) float32 of part i."""
        return logits(columns.rows(self.z, i), self.prototypes)

    def all(self) -> jax.Array:
        """(R, n, K) float32."""
        return logits(self.z, self.prototypes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FormedTargets:
    """Targets whose kernel is formed again, a few tokens at a time, by whoever reads it.

    Over 65,536 prototypes a kernel that waits for the losses is as large as all that the backward pass of a ViT-S
    has to keep; this one costs a product for each time that it is read.
    """

    scores: Scores  # (R, n, K)
    temp: jax.Array
    centre: jax.Array  # (K,)
    top: jax.Array  # (R, n): largest score of a token, centred, over temp
    prototype_scale: jax.Array  # (K,)
    token_scale: jax.Array  # (R, n)

    def rows(self, columns: Columns, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(kernel (tokens, K), token scale (tokens,)) of part i."""
        shifted = (self.scores.rows(columns, i) - self.centre) / self.temp
        return jnp.exp(shifted - columns.rows(self.top, i)[:, None]), columns.rows(self.token_scale, i)

    def places(self, rows: Any, whole: Any) -> FormedTargets:
        """As of Targets."""
        return FormedTargets(Scores(rows, whole), whole, whole, rows, whole, rows)

    def probabilities(self) -> jax.Array:
        """P itself, (R, n, K) float32, all at once."""
        shifted = (self.scores.all() - self.centre) / self.temp
        return jnp.exp(shifted - self.top[..., None]) * self.prototype_scale * self.token_scale[..., None]


def sinkhorn(scores: jax.Array, temp: jax.Array, valid: jax.Array | None = None, iterations: int = 3) -> Targets:
    """Targets of teacher scores (..., K) balanced over all tokens at once, ending on the token normalisation.

    The reference rescales the whole matrix; here only its row and column factors are updated, which is the same
    and reads the matrix twice an iteration. Tokens that are not `valid` (...) enter no sum.
    """
    valid = jnp.ones(scores.shape[:-1], jnp.float32) if valid is None else valid.astype(jnp.float32)
    scores = scores / temp
    top = scores.max(-1)
    kernel = jnp.exp(scores - top[..., None])  # each token's best is 1: no overflow, no empty token
    count, prototypes = jnp.maximum(valid.sum(), 1.0), scores.shape[-1]
    rows = kernel.reshape(-1, prototypes)  # CPUs are slow on products with more axes
    start = _first_scale(top, valid)

    def balance(_, scales):
        _, token = scales
        mass = jnp.einsum("tk,t->k", rows, token.reshape(-1), precision="highest")
        prototype = _reciprocal(mass * prototypes)
        mass = jnp.einsum("tk,k->t", rows, prototype, precision="highest").reshape(token.shape)
        return prototype, _reciprocal(mass * count) * valid

    empty = jnp.zeros((prototypes,), jnp.float32)
    prototype, token = jax.lax.fori_loop(0, iterations, balance, (empty, start))
    return Targets(kernel, prototype, token * count)


def sinkhorn_in_parts(
    scores: Scores, temp: jax.Array, valid: jax.Array, chunk: int, iterations: int = 3
) -> FormedTargets:
    """The targets of `sinkhorn`, to rounding, with scores for `chunk` columns of valid (R, n) in memory at a time.

    A pass over the parts takes the token factors from the prototype factors and adds up what gives the next ones.
    Scores are formed `iterations` + 2 times.
    """
    columns, prototypes = Columns.of(valid.shape[1], chunk), len(scores.prototypes)
    valid = valid.astype(jnp.float32)
    count = jnp.maximum(valid.sum(), 1.0)
    top = _in_parts(columns, lambda i: (scores.rows(columns, i) / temp).max(-1))
    first = _first_scale(top, valid)

    def kernel(i: jax.Array) -> jax.Array:
        return jnp.exp(scores.rows(columns, i) / temp - columns.rows(top, i)[:, None])

    def token_scale(rows: jax.Array, prototype: jax.Array, i: jax.Array) -> jax.Array:
        mass = jnp.einsum("tk,k->t", rows, prototype, precision="highest")
        return _reciprocal(mass * count) * columns.rows(valid, i)

    def add_up(scale_of: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        def part(mass: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            rows = kernel(i)
            apart = columns.columns(rows), columns.columns(scale_of(rows, i))
            return mass + jnp.einsum("rtk,rt->rk", *apart, precision="highest"), None

        # each row on its own until the end: rows lie on different devices, which meet once and not for every part
        zero = jnp.zeros((len(valid), prototypes), jnp.float32)
        return _reciprocal(jax.lax.scan(part, zero, jnp.arange(columns.count))[0].sum(0) * prototypes)

    prototype = add_up(lambda rows, i: columns.rows(first, i))
    for _ in range(iterations - 1):
        prototype = add_up(lambda rows, i, p=prototype: token_scale(rows, p, i))  # type: ignore[misc]
    token = _in_parts(columns, lambda i: token_scale(kernel(i), prototype, i))
    return FormedTargets(scores, temp, jnp.zeros((prototypes,), jnp.float32), top, prototype, token * count)


def _in_parts(columns: Columns, values: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """(R, n): the values of the rows of each part, put together."""
    return columns.join(jax.lax.map(lambda i: columns.columns(values(i)), jnp.arange(columns.count)))


def _first_scale(top: jax.Array, valid: jax.Array) -> jax.Array:
    """Token factors before the first iteration: they undo the shift by each token's best score, up to one factor.

    Scores of unit features are within 50 temperatures of each other; the floor only keeps wilder ones from vanishing.
    """
    highest = jnp.max(jnp.where(valid > 0, top, -jnp.inf))
    return jnp.where(valid > 0, jnp.exp(jnp.clip(top - highest, -80.0, 0.0)), 0.0)


def _reciprocal(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def centred_softmax(scores: jax.Array, temp: jax.Array, centre: jax.Array, valid: jax.Array | None = None) -> Targets:
    """Targets softmax((scores - centre) / temp) of teacher scores (..., K), centre (K,)."""
    shifted = (scores - centre) / temp
    kernel = jnp.exp(shifted - shifted.max(-1, keepdims=True))
    token = 1 / kernel.sum(-1)
    token = token if valid is None else token * valid
    return Targets(kernel, jnp.ones((scores.shape[-1],), jnp.float32), token)


def centred_softmax_in_parts(
    scores: Scores, temp: jax.Array, centre: jax.Array, valid: jax.Array, chunk: int
) -> tuple[FormedTargets, jax.Array]:
    """The targets of `centred_softmax` and the `masked_mean` of the scores, for `chunk` columns at a time."""
    columns = Columns.of(valid.shape[1], chunk)
    weight = _mean_weights(valid)

    def part(total: jax.Array, i: jax.Array):
        rows = scores.rows(columns, i)
        shifted = (rows - centre) / temp
        top = shifted.max(-1)
        token = 1 / jnp.exp(shifted - top[:, None]).sum(-1) * columns.rows(valid, i)
        apart = columns.columns(rows), columns.columns(columns.rows(weight, i))
        total = total + jnp.einsum("rtk,rt->rk", *apart, precision="highest")
        return total, (columns.columns(top), columns.columns(token))

    ones, zero = jnp.ones_like(centre), jnp.zeros((len(valid), len(centre)), jnp.float32)
    total, (top, token) = jax.lax.scan(part, zero, jnp.arange(columns.count))
    return FormedTargets(scores, temp, centre, columns.join(top), ones, columns.join(token)), total.sum(0)


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


def masked_mean(scores: jax.Array, valid: jax.Array) -> jax.Array:
    """(K,): mean over the valid tokens of each shard, then over shards; scores (G, M, K), valid (G, M)."""
    return jnp.einsum("gmk,gm->k", scores, _mean_weights(valid), precision="highest")


def _mean_weights(valid: jax.Array) -> jax.Array:
    return valid / jnp.maximum(valid.sum(-1, keepdims=True), 1.0) / valid.shape[0]
