"""Softmax attention between all tiles of a bag, without ever holding all scores, forward and backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

QUERIES = 256  # rows of scores at a time
MASKED = -1e10  # a score that is no tile's: its share is 0 in float32


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k' / sqrt(e)) v, (B, H, T, e), over the keys that `mask` (B, S) has.

    Queries are (B, H, T, e), keys and values (B, H, S, e).
    """
    batch, heads, tokens, size = q.shape
    blocks = -(-tokens // QUERIES)
    rows = jnp.pad(q * size**-0.5, ((0, 0), (0, 0), (0, blocks * QUERIES - tokens), (0, 0)))
    rows = jnp.moveaxis(rows.reshape(batch, heads, blocks, QUERIES, size), 2, 0)

    @jax.checkpoint
    def one(block: jax.Array) -> jax.Array:
        return jnp.einsum("bhts,bhsd->bhtd", shares(block, k, mask), v)

    out = jax.lax.map(one, rows)  # (blocks, B, H, QUERIES, e)
    return jnp.moveaxis(out, 0, 2).reshape(batch, heads, blocks * QUERIES, size)[:, :, :tokens]


def shares(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """(B, H, T, S) softmax weights of queries that are scaled already."""
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k)
    return jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, MASKED), axis=-1)
