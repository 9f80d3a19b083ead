"""TransMIL (Shao et al., NeurIPS 2021): Nystrom attention over all tiles, and convolutions on a square grid of them.

The published model pads by the number of tiles: it repeats the first ones until they fill a square, and puts zeros
in front until the tokens fill the landmarks. Here a bag has the length of its bucket, so that one program serves many
lengths: where each token stands is computed from the number of tiles, and what lies beyond is kept at zero. All
arrays below are of one bag; the tiles that are there come first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.evaluation.mil.parts import drop, linear, split
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.token_attention import MASKED
from histojax.models.layers import init_uniform, layer_norm

TAPS = 33  # of the convolution along the tokens
GRID = (7, 5, 3)  # sides of the convolutions on the grid
NEWTON = 6  # steps to the pseudo-inverse
_BAGS = "bags"  # the axis over bags


class Places(NamedTuple):
    """Where the tokens of a bag of n tiles stand among S: zeros, the class token at `first`, a square of tiles."""

    widest: int  # side of the square of the longest bag
    side: jax.Array  # of the square, ()
    first: jax.Array  # ()
    length: jax.Array  # zeros and tokens together, a multiple of the landmarks, ()
    there: jax.Array  # which of the S are tokens, (S,) bool
    tile: jax.Array  # which tile a token is, (S,) int32; anything where it is none


def find_places(tiles: jax.Array, longest: int, landmarks: int) -> Places:
    """Of `tiles`, () int32, for bags of up to `longest`."""
    widest = math.isqrt(longest - 1) + 1
    at = jnp.arange(-(-(widest**2 + 1) // landmarks) * landmarks)
    sides = jnp.arange(1, widest + 1)
    side = jnp.argmax(sides**2 >= tiles) + 1
    tokens = side**2 + 1
    length = (tokens + landmarks - 1) // landmarks * landmarks
    first = length - tokens
    tile = at - first - 1
    return Places(
        widest, side, first, length, (at >= first) & (at < length), jnp.where(tile >= tiles, tile - tiles, tile)
    )


class NystromLayer(nnx.Module):
    """Pre-norm Nystrom attention (Xiong et al., AAAI 2021), added to the tokens."""

    def __init__(self, settings: HeadSettings, rngs: nnx.Rngs):
        width, self.heads, self.rate = settings.size, settings.heads, settings.rate
        self.landmarks = settings.landmarks
        self.norm = layer_norm(width, settings.eps, rngs)
        self.qkv = linear(width, 3 * width, rngs, bias=False)
        self.out = linear(width, width, rngs)
        self.taps = nnx.Param(init_uniform(TAPS**-0.5)(rngs.params(), (TAPS, settings.heads)))

    def __call__(self, x: jax.Array, places: Places, key: jax.Array | None = None, only: bool = False) -> jax.Array:
        """Tokens (S, D) after the layer; `only`: those of the class token alone, (1, D)."""
        q, k, v = self._triple(x, places)
        near, far = self._weights(q, k, places, only)
        attended = jnp.einsum("hsm,hme->she", near, jnp.einsum("hmt,the->hme", far, v))
        around = jnp.pad(v, ((TAPS // 2, TAPS // 2), (0, 0), (0, 0)))
        if only:
            around = jax.lax.dynamic_slice_in_dim(around, places.first, TAPS)
            x = jax.lax.dynamic_slice_in_dim(x, places.first, 1)
        attended += _convolved(around, self.taps[...][..., None], jnp.arange(TAPS), len(x))
        return x + drop(self.out(attended.reshape(x.shape)), self.rate, key)

    def first_weights(self, x: jax.Array, places: Places) -> jax.Array:
        """(H, S) of the class token for all tokens; the pseudo-inverse lets some be below zero."""
        q, k, _ = self._triple(x, places)
        near, far = self._weights(q, k, places, only=True)
        return jnp.einsum("hm,hmt->ht", near[:, 0], far)

    def _triple(self, x: jax.Array, places: Places) -> list[jax.Array]:
        normed = jnp.where(places.there[:, None], self.norm(x), 0)
        q, k, v = jnp.split(self.qkv(normed), 3, axis=-1)
        q = q * (q.shape[-1] // self.heads) ** -0.5
        return [a.reshape(len(x), self.heads, -1) for a in (q, k, v)]

    def _weights(self, q: jax.Array, k: jax.Array, places: Places, only: bool) -> tuple[jax.Array, jax.Array]:
        """Of tokens for landmarks, with the pseudo-inverse, (H, S or 1, m); of landmarks for tokens, (H, m, S)."""
        m, at = self.landmarks, jnp.arange(len(q))
        size = places.length // m
        near, far = (jax.ops.segment_sum(a, jnp.minimum(at // size, m), m + 1)[:m] / size for a in (q, k))
        between = jax.nn.softmax(jnp.einsum("mhe,nhe->hmn", near, far), axis=-1)
        scores = jnp.where(at < places.length, jnp.einsum("mhe,the->hmt", near, k), MASKED)
        rows = jax.lax.dynamic_slice_in_dim(q, places.first, 1) if only else q
        shares = jax.nn.softmax(jnp.einsum("she,mhe->hsm", rows, far), axis=-1)
        return jnp.einsum("hsm,hmn->hsn", shares, _inverse(between)), jax.nn.softmax(scores, axis=-1)


class GridConvolution(nnx.Module):
    """Depthwise convolutions of three sizes on the square of tiles, and the tiles themselves, added up."""

    def __init__(self, settings: HeadSettings, rngs: nnx.Rngs):
        for side in GRID:
            init = init_uniform(1 / side)
            setattr(self, f"kernel{side}", nnx.Param(init(rngs.params(), (side, side, settings.size))))
            setattr(self, f"bias{side}", nnx.Param(init(rngs.params(), (settings.size,))))

    def __call__(self, x: jax.Array, places: Places) -> jax.Array:
        """Tokens (S, D); the class token stays."""
        widest = places.widest
        row, column = jnp.divmod(jnp.arange(widest**2), widest)
        inside = (row < places.side) & (column < places.side)
        square = x[jnp.where(inside, places.first + 1 + row * places.side + column, 0)]
        square = jnp.where(inside[:, None], square, 0).reshape(widest, widest, -1)
        edge = GRID[0] // 2
        flat = jnp.pad(square, ((edge, edge + 1), (edge, edge), (0, 0))).reshape(-1, square.shape[-1])
        wide = widest + 2 * edge  # a step down in the grid, which lies row behind row
        steps = (jnp.arange(GRID[0])[:, None] * wide + jnp.arange(GRID[0])).reshape(-1)
        out = _convolved(flat, self._kernel(), steps, widest * wide)
        out = out.reshape(widest, wide, -1)[:, :widest].reshape(widest**2, -1)
        at = jnp.arange(len(x)) - places.first - 1
        row, column = jnp.divmod(jnp.maximum(at, 0), places.side)
        moved = out[jnp.minimum(row * widest + column, widest**2 - 1)] + self._bias()
        return jnp.where(((at >= 0) & places.there)[:, None], moved, x)

    def _kernel(self) -> jax.Array:
        """(49, D): the three kernels and the identity in one."""
        total = jnp.zeros_like(getattr(self, f"kernel{GRID[0]}")[...]).at[GRID[0] // 2, GRID[0] // 2].set(1)
        for side in GRID:
            edge = (GRID[0] - side) // 2
            total += jnp.pad(getattr(self, f"kernel{side}")[...], ((edge, edge), (edge, edge), (0, 0)))
        return total.reshape(-1, total.shape[-1])

    def _bias(self) -> jax.Array:
        return sum(getattr(self, f"bias{side}")[...] for side in GRID)


class TransMil(nnx.Module):
    """Bags (B, n, d) to logits (B, O)."""

    def __init__(self, settings: HeadSettings, *, rngs: nnx.Rngs):
        self.settings = settings
        self.projection = linear(settings.inputs, settings.size, rngs)
        self.cls = nnx.Param(jax.random.normal(rngs.params(), (settings.size,)))
        self.layer1 = NystromLayer(settings, rngs)
        self.grid = GridConvolution(settings, rngs)
        self.layer2 = NystromLayer(settings, rngs)
        self.norm = layer_norm(settings.size, settings.eps, rngs)
        self.head = linear(settings.size, settings.outputs, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, O) from tiles (B, n, d) of which `mask` (B, n) says which are there, the first ones; `key`: dropout."""

        def one(x: jax.Array, mask: jax.Array, number: jax.Array) -> jax.Array:
            keys = split(None if key is None else jax.random.fold_in(key, number), 2)
            tokens, places = self._tokens(x, mask, keys[0])
            return self.head(self.norm(self.layer2(tokens, places, keys[1], only=True)[0]))

        return jax.vmap(one, axis_name=_BAGS)(x, mask, jnp.arange(len(x)))

    def attention(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(B, H, n): weight of each tile for the class token in the last layer; that of repeated tiles is added up."""

        def one(x: jax.Array, mask: jax.Array) -> jax.Array:
            tokens, places = self._tokens(x, mask, None)
            weights = self.layer2.first_weights(tokens, places)
            is_tile = places.there & (jnp.arange(len(tokens)) > places.first)
            return jax.ops.segment_sum((weights * is_tile).T, jnp.where(is_tile, places.tile, len(x)), len(x) + 1)[
                :-1
            ].T

        return jax.vmap(one, axis_name=_BAGS)(x, mask)

    def _tokens(self, x: jax.Array, mask: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Places]:
        """What the last layer is given."""
        places = find_places(mask.sum(), len(x), self.settings.landmarks)
        tiles = jax.nn.relu(self.projection(x))[jnp.clip(places.tile, 0, len(x) - 1)]
        tokens = jnp.where((jnp.arange(len(tiles)) == places.first)[:, None], self.cls[...], tiles)
        tokens = jnp.where(places.there[:, None], tokens, 0)
        return self.grid(self.layer1(tokens, places, key), places), places


def _inverse(x: jax.Array) -> jax.Array:
    """Pseudo-inverse of (H, m, m) by Newton's steps; the published start has one scale for all heads and bags."""
    largest = (jnp.abs(x).sum(axis).max() for axis in (-1, -2))
    rows, columns = (jax.lax.all_gather(one, _BAGS).max() for one in largest)  # pmax has no gradient
    z, eye = x.swapaxes(-1, -2) / (rows * columns), jnp.eye(x.shape[-1])
    for _ in range(NEWTON):
        xz = x @ z
        z = 0.25 * z @ (13 * eye - xz @ (15 * eye - xz @ (7 * eye - xz)))
    return z


def _convolved(x: jax.Array, kernel: jax.Array, steps: jax.Array, length: int) -> jax.Array:
    """Sum over taps i of `length` rows of x from steps[i] on, times kernel[i]; one tap at a time, to save memory."""

    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jax.lax.dynamic_slice_in_dim(x, tap[0], length) * tap[1], None

    return jax.lax.scan(add, jnp.zeros((length, *x.shape[1:]), x.dtype), (steps, kernel))[0]
