"""A batch in parts, one after the other, so that a small device has activations of one part only in memory.

What compares tokens of different images (Sinkhorn, KoLeo, the iBOT list of masked patches) sees those of the whole
batch all the same: tokens are small, the activations behind them are not. The gradient goes through the tokens in two
steps: of the loss for the tokens and the heads, and then, part by part, of the tokens for the backbone, which makes
them a second time (Gao et al. 2021, gradient caching).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from histojax.parallel.sharding import Layout

if TYPE_CHECKING:
    from histojax.ssl.recipe import Recipe

Tree = Any


@dataclasses.dataclass(frozen=True)
class Parts:
    """`count` parts of a batch of images, each with equally many images of every shard and of every device."""

    count: int
    groups: int  # runs of images, each of one shard and on one device
    layout: Layout | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Parts:
        """As a recipe says."""
        return cls(recipe.accumulate, images_multiple(recipe.shards, recipe.layout), recipe.layout)

    def cut(self, tree: Tree) -> Tree:
        """(count, B / count, ...) of arrays (B, ...); vectors are not of images, each part has them whole.

        What a device has, it keeps.
        """

        def one(x: jax.Array) -> jax.Array:
            if x.ndim == 1:
                return jnp.broadcast_to(x, (self.count, *x.shape))
            apart = x.reshape(self.groups, self.count, -1, *x.shape[1:]).swapaxes(0, 1)
            return self._place(apart.reshape(self.count, -1, *x.shape[1:]), 1)

        return jax.tree.map(one, tree)

    def join(self, tree: Tree) -> Tree:
        """The inverse of `cut`."""

        def one(x: jax.Array) -> jax.Array:
            apart = x.reshape(self.count, self.groups, -1, *x.shape[2:]).swapaxes(0, 1)
            return self._place(apart.reshape(-1, *x.shape[2:]), 0)

        return jax.tree.map(one, tree)

    def map(self, function: Callable[[Any, jax.Array | None], Tree], batch: Any, key: jax.Array | None = None) -> Tree:
        """`function` of (batch, key), arrays (B, ...) to arrays (B, ...), part by part, each with its key."""
        if self.count == 1:
            return function(batch, key)
        keys = None if key is None else jax.random.split(key, self.count)
        return self.join(jax.lax.map(lambda part: function(*part), (self.cut(batch), keys)))

    def sum(self, function: Callable[[Any, jax.Array | None], Tree], batch: Any, key: jax.Array | None = None) -> Tree:
        """The sum of `function` of (part of the batch, key) over the parts, with the keys of `map`."""
        if self.count == 1:
            return function(batch, key)
        keys = None if key is None else jax.random.split(key, self.count)
        parts = self.cut(batch), keys
        shapes = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], parts))

        def add(total: Tree, part: Any) -> tuple[Tree, None]:
            return jax.tree.map(jnp.add, total, function(*part)), None

        return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]

    def _place(self, x: jax.Array, images: int) -> jax.Array:
        return x if self.layout is None else self.layout.split(x, images)


def through_tokens(
    parts: Parts,
    see: Callable[..., Tree],
    loss: Callable[[Tree, Tree], tuple[jax.Array, Tree]],
    parameters: Tree,
    batch: tuple,
    key: jax.Array | None,
) -> tuple[Tree, Tree]:
    """(gradient, aux) of (value, aux) = loss(parameters, tokens of the whole batch) for the parameters.

    Tokens are see(parameters, *batch, key), of arrays (B, ...) to arrays (B, ...), each image by itself.
    """
    if parts.count == 1:
        return jax.grad(lambda p: loss(p, see(p, *batch, key)), has_aux=True)(parameters)
    tokens = parts.map(lambda part, key: see(parameters, *part, key), batch, key)
    (direct, slopes), aux = jax.grad(loss, argnums=(0, 1), has_aux=True)(parameters, tokens)
    backbone = {name: tree for name, tree in parameters.items() if name == "backbone"}  # all that tokens depend on

    def back(part: tuple[tuple, Tree], key: jax.Array | None) -> Tree:
        _, pull = jax.vjp(lambda b: see({**parameters, **b}, *part[0], key), backbone)
        return pull(part[1])[0]

    through = parts.sum(back, (batch, slopes), key)
    return {**direct, **jax.tree.map(jnp.add, {name: direct[name] for name in backbone}, through)}, aux


def images_multiple(shards: int, layout: Layout | None) -> int:
    """What the images of a part must be a multiple of."""
    return math.lcm(shards, layout.devices if layout else 1)
