"""Parts of the inference-only encoders: pre-norm blocks, stacks of them, torch-like convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.layers import Attention, LayerScale, Mlp, layer_norm


def batch_norm(channels: int, eps: float, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm with the running statistics (`mean`, `var`), as in torch's eval mode."""
    return nnx.BatchNorm(channels, use_running_average=True, epsilon=eps, dtype=jnp.float32, rngs=rngs)


def check_side(images: jax.Array, side: int, family: str) -> None:
    """Raise ValueError unless `images` are (N, side, side, 3): positions of `family` are not resampled."""
    if images.shape[1:] != (side, side, 3):
        raise ValueError(f"{family} takes images (N, {side}, {side}, 3), got {images.shape}: resize them to {side} px")


class GatedFeedForward(nnx.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, dim: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
        self.gate = nnx.Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Pre-norm block: x + ls1(mix(attn, norm1 x)), then x + ls2(mlp(norm2 x)); the residual stream is float32.

    `mix(attn, y)` decides which tokens attend to each other and how: windows, biases, rotations are its business.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        gated: bool = False,
        layerscale: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1, self.norm2 = layer_norm(dim, eps, rngs), layer_norm(dim, eps, rngs)
        self.attn = Attention(dim, heads, dtype=dtype, rngs=rngs)
        feed = GatedFeedForward if gated else Mlp
        self.mlp = feed(dim, hidden, dtype=dtype, rngs=rngs)
        self.scaled = layerscale
        if layerscale:
            self.ls1, self.ls2 = LayerScale(dim, 1.0), LayerScale(dim, 1.0)

    def __call__(self, x: jax.Array, mix: Callable[[Attention, jax.Array], jax.Array]) -> jax.Array:
        y = mix(self.attn, self.norm1(x))
        x = x + (y * self.ls1.gamma[...] if self.scaled else y).astype(jnp.float32)
        y = self.mlp(self.norm2(x))
        return x + (y * self.ls2.gamma[...] if self.scaled else y).astype(jnp.float32)


def stacked(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> Any:
    """`depth` modules whose parameters are stacked on a leading axis."""
    return nnx.split_rngs(splits=depth)(nnx.vmap(make))(rngs)


def run_blocks(
    blocks: Any, x: jax.Array, mix: Callable[..., jax.Array], extra: Any = None, every: bool = False
) -> tuple[jax.Array, Any]:
    """(x after all stacked blocks, x after each of them (L, *x.shape) if `every`), by one scan.

    Args:
        blocks: a stack of `Block`s.
        x: tokens, float32.
        mix: called as mix(attn, y, own), see `Block`; `own` is the block's slice of `extra`.
        extra: arrays with a leading axis of the same depth, or None.
        every: also keep all intermediate results.
    """
    graph, params = nnx.split(blocks)

    def body(x, layer):
        own_params, own = layer
        x = nnx.merge(graph, own_params)(x, lambda attn, y: mix(attn, y, own))
        return x, (x if every else None)

    return jax.lax.scan(body, x, (params, extra))


def numbered(modules: Iterable[nnx.Module]) -> nnx.Dict:
    """The modules under the names block0, block1, ...

    Not a list: NNX sorts the numbers of a list but the strings of a loaded tree ("10" before "2"), and would pair
    the parameters of longer lists wrongly without a word. Iterate with `in_order`: a Dict is sorted by name.
    """
    return nnx.Dict({f"block{i}": module for i, module in enumerate(modules)})


def in_order(modules: nnx.Dict) -> list[Any]:
    """The modules of `numbered`, by their number."""
    return [modules[f"block{i}"] for i in range(len(modules))]


class Conv(nnx.Module):
    """Square convolution on (N, H, W, C) with torch's symmetric padding; `kernel` is (k, k, in, out)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        pad: int = 0,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        self.size, self.stride, self.pad = size, stride, pad
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self._point(x) if self.size == 1 else self._window(x)
        return y if self.bias is None else y + self.bias[...]

    def _point(self, x: jax.Array) -> jax.Array:
        """A 1x1 convolution is a matrix product, which XLA runs faster as such on CPUs."""
        return x[:, :: self.stride, :: self.stride] @ self.kernel[...][0, 0]

    def _window(self, x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            [(self.pad, self.pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
