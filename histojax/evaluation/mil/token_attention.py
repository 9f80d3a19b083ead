"""Softmax attention between all tiles of a bag, without ever holding all scores, forward and backward.

Scores are formed some rows at a time and again in the backward pass (Dao et al., NeurIPS 2022; the gradient is their
section 3.1). Blocks behind the last token that is there are skipped, so that padding costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # rows of scores at a time
MASKED = -1e10  # a score that is no tile's: its share is 0 in float32


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k' / sqrt(e)) v, (B, H, T, e), of tokens (B, H, T, e) of which `mask` (B, T) says which are there.

    Rows of tokens that are not there are anything finite, and have no gradient.
    """
    batch, heads, tokens, size = q.shape
    block = min(BLOCK, tokens)
    more = -tokens % block
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in (q * size**-0.5, k, v))
    bias = jnp.pad(jnp.where(mask, 0.0, MASKED), ((0, 0), (0, more)), constant_values=MASKED)
    there = mask.any(axis=0)
    blocks = (jnp.max(jnp.where(there, jnp.arange(1, tokens + 1), 0)) + block - 1) // block
    together = 1 if jax.default_backend() == "cpu" else heads  # a processor's cache holds the scores of one head
    q, k, v = (x.reshape(-1, together, tokens + more, size) for x in (q, k, v))
    bias = jnp.repeat(bias, heads // together, axis=0)
    return _attend(q, k, v, bias, blocks).reshape(batch, heads, tokens + more, size)[:, :, :tokens]


def shares(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """(B, H, T, S) softmax weights of queries that are scaled already."""
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k)
    return jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, MASKED), axis=-1)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, blocks: jax.Array) -> jax.Array:
    """(G, h, T, e) from scaled queries, keys and values (G, h, T, e); `bias` (G, T) is added to the scores of a key,
    `blocks` of BLOCK tokens are worked at."""
    return _forward(q, k, v, bias, blocks)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, blocks: jax.Array) -> tuple[jax.Array, Any]:
    def group(one: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v, bias = one

        def step(start: jax.Array, done: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            scores = jnp.einsum("htd,hsd->hts", _rows(q, start), k) + bias
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = weights.sum(axis=-1, keepdims=True)
            out = jnp.einsum("hts,hsd->htd", weights, v) / total
            return _put(done[0], out, start), _put(done[1], top + jnp.log(total), start)

        return _each_block(step, blocks, (jnp.zeros_like(q), jnp.zeros_like(q[..., :1])))

    out, log_total = jax.lax.map(group, (q, k, v, bias))
    return out, (q, k, v, bias, blocks, out, log_total)


def _backward(kept: Any, slope: jax.Array) -> tuple[Any, ...]:
    """Blocks of keys here, so that none of the five products has a large factor turned; dq grows as (h, e, T)."""
    *kept, blocks, out, log_total = kept
    common = (slope * out).sum(axis=-1)  # (G, h, T)

    def group(one: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        q, k, v, bias, slope, log_total, common = one
        turned = k.swapaxes(-1, -2)

        def step(start: jax.Array, done: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dq, dk, dv = done
            keys, values = _rows(k, start), _rows(v, start)
            shift = jax.lax.dynamic_slice_in_dim(bias, start, keys.shape[1])[None, :, None]
            scores = jnp.einsum("hsd,htd->hst", keys, q) + shift
            weights = jnp.exp(scores - log_total.swapaxes(-1, -2))  # (h, BLOCK, T)
            by_score = weights * (jnp.einsum("hsd,htd->hst", values, slope) - common[:, None])
            dq += jnp.einsum("hds,hst->hdt", jax.lax.dynamic_slice_in_dim(turned, start, keys.shape[1], 2), by_score)
            dk = _put(dk, jnp.einsum("hst,htd->hsd", by_score, q), start)
            return dq, dk, _put(dv, jnp.einsum("hst,htd->hsd", weights, slope), start)

        dq, dk, dv = _each_block(step, blocks, (jnp.zeros_like(turned), jnp.zeros_like(k), jnp.zeros_like(v)))
        return dq.swapaxes(-1, -2), dk, dv

    slopes = jax.lax.map(group, (*kept, slope, log_total, common))
    return *slopes, jnp.zeros_like(kept[3]), np.zeros((), jax.dtypes.float0)


_attend.defvjp(_forward, _backward)


def _each_block(step: Callable[..., Any], blocks: jax.Array, done: Any) -> Any:
    size = min(BLOCK, done[-1].shape[1])
    return jax.lax.fori_loop(0, blocks, lambda i, done: step(i * size, done), done)


def _rows(x: jax.Array, start: jax.Array) -> jax.Array:
    """(h, BLOCK, e) of (h, T, e); T is a multiple of BLOCK, or a block itself."""
    return jax.lax.dynamic_slice_in_dim(x, start, min(BLOCK, x.shape[1]), 1)


def _put(x: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, rows, start, 1)
