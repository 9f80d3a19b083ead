"""Attention pooling (Ilse et al., ICML 2018), plain and gated, and the mean of all tiles as its baseline."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.evaluation.mil.parts import drop, linear, masked_mean
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.token_attention import MASKED


class AttentionPooling(nnx.Module):
    """Bags (B, n, d) to logits (B, O): a mean of projected tiles, weighted by a score of each."""

    def __init__(self, settings: HeadSettings, *, rngs: nnx.Rngs):
        self.settings = settings
        self.encoder = linear(settings.inputs, settings.size, rngs)
        self.score1 = linear(settings.size, settings.hidden, rngs)
        if settings.model == "gated_attention":
            self.gate = linear(settings.size, settings.hidden, rngs)
        self.score2 = linear(settings.hidden, 1, rngs)
        self.head = linear(settings.size, settings.outputs, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, O) from tiles (B, n, d) of which `mask` (B, n) says which are there; `key` is for dropout."""
        tiles = jax.nn.relu(self.encoder(x))
        pooled = jnp.einsum("bn,bnd->bd", self._weights(tiles, mask), tiles)
        return self.head(drop(pooled, self.settings.rate, key))

    def attention(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, 1, n) weights of the tiles, 1 together."""
        return self._weights(jax.nn.relu(self.encoder(x)), mask)[:, None]

    def _weights(self, tiles: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = jnp.tanh(self.score1(tiles))
        if self.settings.model == "gated_attention":
            hidden *= jax.nn.sigmoid(self.gate(tiles))
        return jax.nn.softmax(jnp.where(mask, self.score2(hidden)[..., 0], MASKED), axis=-1)


class MeanPooling(nnx.Module):
    """Bags (B, n, d) to logits (B, O): a linear layer on the mean of all tiles."""

    def __init__(self, settings: HeadSettings, *, rngs: nnx.Rngs):
        self.head = linear(settings.inputs, settings.outputs, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, O) from tiles (B, n, d) of which `mask` (B, n) says which are there."""
        return self.head(masked_mean(x, mask))

    def attention(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, 1, n): the same weight for each tile."""
        return (mask / mask.sum(axis=1, keepdims=True))[:, None]
