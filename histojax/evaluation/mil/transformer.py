"""The transformer of Wagner et al. (Cancer Cell 2023): self-attention between all tiles of a bag, no positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.evaluation.mil.parts import drop, linear, masked_mean, split
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.token_attention import MASKED, attend, shares
from histojax.models.layers import layer_norm


class Layer(nnx.Module):
    """Pre-norm self-attention and feed-forward, each added to the tokens."""

    def __init__(self, settings: HeadSettings, rngs: nnx.Rngs):
        width, self.heads, self.rate = settings.size, settings.heads, settings.rate
        self.norm1 = layer_norm(width, settings.eps, rngs)
        self.qkv = linear(width, 3 * width, rngs, bias=False)
        if settings.heads > 1:  # the published code leaves it out for one head
            self.out = linear(width, width, rngs)
        self.norm2 = layer_norm(width, settings.eps, rngs)
        self.fc1 = linear(width, width, rngs)
        self.fc2 = linear(width, width, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, T, D) from tokens (B, T, D)."""
        keys = split(key, 2)
        return self.feed(self.add(x, attend(*self.triple(x), mask), keys[0]), keys[1])

    def triple(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys, values of tokens (B, T, D), each (B, H, T, e)."""
        q, k, v = jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
        return self.by_head(q), self.by_head(k), self.by_head(v)

    def by_head(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

    def add(self, x: jax.Array, attended: jax.Array, key: jax.Array | None) -> jax.Array:
        """The tokens (B, T, D) with what they attended to, (B, H, T, e), projected and added."""
        out = attended.swapaxes(1, 2).reshape(x.shape)
        return x + (drop(self.out(out), self.rate, key) if self.heads > 1 else out)

    def feed(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """The tokens with their feed-forward added; its GELU is the exact one."""
        keys = split(key, 2)
        hidden = drop(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False), self.rate, keys[0])
        return x + drop(self.fc2(hidden), self.rate, keys[1])

    def first(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, 1, D): row 0 of what `__call__` returns, without the work for the others.

        Keys and values are never formed. A score is q W_k' . x for a normed tile x, and the values' mean is the mean
        of x, times W_v: products are taken with one vector a head instead of matrices for each tile.
        """
        keys = split(key, 2)
        normed = self.norm1(x)
        weights = jax.nn.softmax(self._first_scores(normed, mask), axis=-1)
        mean = jnp.einsum("bhs,bsd->bhd", weights, normed)
        values = jnp.split(self._kernel(), 3, axis=1)[2]  # (D, 1, H, e)
        attended = jnp.einsum("bhd,dxhe->bhxe", mean, values)
        return self.feed(self.add(x[:, :1], attended, keys[0]), keys[1])

    def first_weights(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, H, T) attention of token 0 to all."""
        return jax.nn.softmax(self._first_scores(self.norm1(x), mask), axis=-1)

    def weights(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, H, T, T) attention of each token to all; for small bags, as it grows with the square."""
        q, k, _ = self.triple(x)
        return shares(q * q.shape[-1] ** -0.5, k, mask)

    def _kernel(self) -> jax.Array:
        kernel = self.qkv.kernel[...]
        return kernel.reshape(len(kernel), 3, self.heads, -1)

    def _first_scores(self, normed: jax.Array, mask: jax.Array) -> jax.Array:
        wq, wk, _ = jnp.unstack(self._kernel(), axis=1)  # (D, H, e)
        query = jnp.einsum("bd,dhe->bhe", normed[:, 0], wq) * wq.shape[-1] ** -0.5
        scores = jnp.einsum("bhd,bsd->bhs", jnp.einsum("bhe,dhe->bhd", query, wk), normed)
        return jnp.where(mask[:, None, :], scores, MASKED)


class Transformer(nnx.Module):
    """Bags (B, n, d) to logits (B, O)."""

    def __init__(self, settings: HeadSettings, *, rngs: nnx.Rngs):
        self.settings = settings
        width = settings.size
        self.projection = linear(settings.inputs, width, rngs)
        self.cls = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        for i in range(settings.depth):
            setattr(self, f"layer{i}", Layer(settings, rngs))
        self.norm = layer_norm(width, settings.eps, rngs)
        self.head_norm = layer_norm(width, settings.eps, rngs)  # a second one: published weights have both
        self.head = linear(width, settings.outputs, rngs)

    @property
    def layers(self) -> list[Layer]:
        return [getattr(self, f"layer{i}") for i in range(self.settings.depth)]

    def __call__(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, O) from tiles (B, n, d) of which `mask` (B, n) says which are there; `key` is for dropout."""
        keys = split(key, self.settings.depth + 1)
        x, mask = self.tokens(x, mask, keys[-1])
        for layer, one in zip(self.layers[:-1], keys):
            x = layer(x, mask, one)
        if self.settings.pool == "cls":
            pooled = self.layers[-1].first(x, mask, keys[-2])[:, 0]
        else:
            pooled = masked_mean(self.layers[-1](x, mask, keys[-2]), mask)
        return self.head(self.head_norm(self.norm(pooled)))

    def tokens(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Projected tiles behind the class token, if it is read, (B, T, D), and which of them are there, (B, T)."""
        x = jax.nn.relu(self.projection(x))
        if self.settings.pool == "cls":
            cls = jnp.broadcast_to(self.cls[...], (len(x), 1, x.shape[-1]))
            x = jnp.concatenate([cls, x], axis=1)
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        return drop(x, self.settings.rate, key), mask

    def attention(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, H, n) attention of the last layer: of the class token to the tiles, the rest going to itself; without
        class token, the mean over all tiles of what they give to each."""
        x, mask = self.tokens(x, mask)
        for layer in self.layers[:-1]:
            x = layer(x, mask)
        if self.settings.pool == "cls":
            return self.layers[-1].first_weights(x, mask)[:, :, 1:]
        return received(self.layers[-1], x, mask)

    def maps(self, x: jax.Array, mask: jax.Array) -> list[jax.Array]:
        """(B, H, T, T) attention of each layer; for small bags."""
        x, mask = self.tokens(x, mask)
        found = []
        for layer in self.layers:
            found.append(layer.weights(x, mask))
            x = layer(x, mask)
        return found


def received(layer: Layer, x: jax.Array, mask: jax.Array, rows: int = 256) -> jax.Array:
    """(B, H, T): mean over the queries of a layer of the attention that each token gets, some rows at a time."""
    q, k, _ = layer.triple(x)
    batch, heads, tokens, size = q.shape
    more = -tokens % rows
    q = jnp.pad(q * size**-0.5, ((0, 0), (0, 0), (0, more), (0, 0))).reshape(batch, heads, -1, rows, size)
    there = jnp.pad(mask, ((0, 0), (0, more))).reshape(batch, -1, rows).astype(q.dtype)

    def one(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jnp.einsum("bhts,bt->bhs", shares(block[0], k, mask), block[1]), None

    start = jnp.zeros((batch, heads, tokens), q.dtype)
    total, _ = jax.lax.scan(one, start, (jnp.moveaxis(q, 2, 0), jnp.moveaxis(there, 1, 0)))
    return total / mask.sum(axis=1)[:, None, None]
