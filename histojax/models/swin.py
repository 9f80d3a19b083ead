"""Swin transformer (Liu et al. 2021), with a convolutional stem the network of CTransPath (Wang et al. 2022).

It follows the authors' modified timm 0.5.4: patch merging ends a stage, windows are shifted in every second block
unless one window covers the map, and pairs of places that were not neighbours before the shift get -100.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.blocks import Block, Conv, batch_norm, check_side, in_order, numbered
from histojax.models.layers import attention_einsum, layer_norm, patchify


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Static description of a Swin; the defaults are CTransPath's (Swin-T with a conv stem)."""

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    image: int = 224
    eps: float = 1e-5  # of LayerNorm
    stem: str = "conv"  # or "patch": one 4x4 convolution, as in the plain Swin
    bn_eps: float = 1e-5
    dtype: Any = jnp.float32  # of the matrix products of the blocks

    @property
    def features(self) -> int:
        """Width of the last stage and of the pooled feature."""
        return self.dim * 2 ** (len(self.depths) - 1)


CTRANSPATH = SwinConfig()
SWIN_TINY = SwinConfig(stem="patch")


class ConvStem(nnx.Module):
    """Two strided 3x3 convolutions with BatchNorm and ReLU, a 1x1 convolution, LayerNorm: (N, H/4, W/4, dim)."""

    def __init__(self, c: SwinConfig, rngs: nnx.Rngs):
        first, second = c.dim // 8, c.dim // 4
        self.conv1, self.bn1 = Conv(3, first, 3, stride=2, pad=1, rngs=rngs), batch_norm(first, c.bn_eps, rngs)
        self.conv2, self.bn2 = (
            Conv(first, second, 3, stride=2, pad=1, rngs=rngs),
            batch_norm(second, c.bn_eps, rngs),
        )
        self.conv3 = Conv(second, c.dim, 1, bias=True, rngs=rngs)
        self.norm = layer_norm(c.dim, c.eps, rngs)

    def project(self, images: jax.Array) -> jax.Array:
        """The stem before its LayerNorm."""
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        return self.conv3(jax.nn.relu(self.bn2(self.conv2(x))))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.norm(self.project(images))


class PatchStem(nnx.Module):
    """Patches of 4x4 pixels through one linear layer, then LayerNorm: (N, H/4, W/4, dim)."""

    def __init__(self, c: SwinConfig, rngs: nnx.Rngs):
        self.proj = nnx.Linear(48, c.dim, rngs=rngs)
        self.norm = layer_norm(c.dim, c.eps, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.norm(self.proj(patchify(images, 4)))


class PatchMerging(nnx.Module):
    """Half the sides and twice the channels: 2x2 neighbours side by side, LayerNorm, linear."""

    def __init__(self, dim: int, eps: float, rngs: nnx.Rngs):
        self.norm = layer_norm(4 * dim, eps, rngs)
        self.reduction = nnx.Linear(4 * dim, 2 * dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, dim = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, dim)
        # column parity outermost: (even, even), (odd, even), (even, odd), (odd, odd) of (row, column)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(n, height // 2, width // 2, 4 * dim)
        return self.reduction(self.norm(x))


class SwinBlock(Block):
    """Pre-norm block with a table (169, heads) of relative positions within a window."""

    def __init__(self, dim: int, heads: int, c: SwinConfig, *, shift: int, window: int, rngs: nnx.Rngs):
        super().__init__(dim, heads, 4 * dim, eps=c.eps, dtype=c.dtype, rngs=rngs)
        self.rel_pos = nnx.Param(jnp.zeros(((2 * window - 1) ** 2, heads), jnp.float32))
        self.shift, self.window = shift, window

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """(N, H, W, D) from (N, H, W, D)."""
        _, height, width, _ = x.shape
        bias = jnp.moveaxis(self.rel_pos[...][window_index(self.window)], -1, 0)  # (heads, T, T)
        if self.shift:
            bias = (
                bias + jnp.asarray(shift_mask((height, width), self.window, self.shift))[:, None]
            )  # (windows, heads, T, T)

        def mix(attn, y):
            y = to_windows(jnp.roll(y, (-self.shift, -self.shift), (1, 2)), self.window)
            y = from_windows(attn(y, partial(attention_einsum, bias=bias)), (height, width), self.window)
            return jnp.roll(y, (self.shift, self.shift), (1, 2))

        return super().__call__(x, mix)


class Stage(nnx.Module):
    """Blocks on one resolution; `downsample` ends all stages but the last."""

    def __init__(self, dim: int, depth: int, heads: int, grid: int, c: SwinConfig, *, last: bool, rngs: nnx.Rngs):
        window = min(c.window, grid)
        shifts = [window // 2 if i % 2 and grid > window else 0 for i in range(depth)]
        self.blocks = numbered(SwinBlock(dim, heads, c, shift=s, window=window, rngs=rngs) for s in shifts)
        self.downsample = None if last else PatchMerging(dim, c.eps, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in in_order(self.blocks):
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin(nnx.Module):
    """Swin encoder; see `__call__`."""

    def __init__(self, config: SwinConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.stem = (ConvStem if c.stem == "conv" else PatchStem)(c, rngs)
        for i, (depth, heads) in enumerate(zip(c.depths, c.heads)):
            last, grid = i + 1 == len(c.depths), c.image // 4 // 2**i
            stage = Stage(c.dim * 2**i, depth, heads, grid, c, last=last, rngs=rngs)
            setattr(self, f"stage{i}", stage)
        self.norm = layer_norm(c.features, c.eps, rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Features of images (N, image, image, 3), float32 and normalised.

        Returns `pooled` (N, features): the mean of `tokens` (N, P, features), which are normed; and the maps
        `stem` (N, image/4, image/4, dim) and `stage0`, `stage1`, ... (N, h, w, d), merged if the stage ends so.
        """
        check_side(images, self.config.image, "CTransPath")
        out = {"stem": self.stem(images)}
        x = out["stem"]
        for i in range(len(self.config.depths)):
            x = out[f"stage{i}"] = getattr(self, f"stage{i}")(x)
        tokens = self.norm(x).reshape(len(x), -1, x.shape[-1])
        return {**out, "tokens": tokens, "pooled": tokens.mean(1)}


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """(N, windows, window**2, D) from a map (N, H, W, D), row by row."""
    n, height, width, dim = x.shape
    x = x.reshape(n, height // window, window, width // window, window, dim).swapaxes(2, 3)
    return x.reshape(n, -1, window * window, dim)


def from_windows(x: jax.Array, size: tuple[int, int], window: int) -> jax.Array:
    """The map (N, H, W, D) of `to_windows`."""
    n, dim, (height, width) = len(x), x.shape[-1], size
    x = x.reshape(n, height // window, width // window, window, window, dim).swapaxes(2, 3)
    return x.reshape(n, height, width, dim)


def window_index(window: int) -> np.ndarray:
    """(T, T) int32 rows of the relative position table, (di + w-1) * (2w-1) + dj + w-1 for query minus key."""
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), axis=-1).reshape(-1, 2)
    step = place[:, None] - place[None] + window - 1
    return (step[..., 0] * (2 * window - 1) + step[..., 1]).astype(np.int32)


def shift_mask(size: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """(windows, T, T) float32: -100 for pairs that were not in one window's reach before the shift, else 0."""
    bands = [np.searchsorted([n - window, n - shift], np.arange(n), side="right") for n in size]
    region: np.ndarray = bands[0][:, None] * 3 + bands[1]
    down, across = size[0] // window, size[1] // window
    region = region.reshape(down, window, across, window).swapaxes(1, 2).reshape(-1, window * window)
    return np.where(region[:, :, None] != region[:, None], -100, 0).astype(np.float32)
