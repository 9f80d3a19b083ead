"""DINOv3 vision transformers (Simeoni et al. 2025) as Hugging Face publishes them: axial RoPE, storage tokens.

There are no learned positions: queries and keys of patch tokens are rotated by angles of their row and column, so
any image whose sides are multiples of the patch is taken.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.blocks import Block, run_blocks, stacked
from histojax.models.layers import attention, layer_norm, patchify


@dataclasses.dataclass(frozen=True)
class Dinov3Config:
    """Static description of a DINOv3 ViT."""

    dim: int
    depth: int
    heads: int
    hidden: int  # feed-forward width
    gated: bool = False  # SwiGLU feed-forward
    patch: int = 16
    registers: int = 4  # storage tokens
    theta: float = 100.0  # base of the rotation frequencies
    eps: float = 1e-5
    attention: str = "einsum"  # see models.layers.attention
    dtype: Any = jnp.float32  # of the matrix products

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class and storage tokens."""
        return 1 + self.registers


DINOV3_S = Dinov3Config(384, 12, 6, 1536)
DINOV3_S_PLUS = Dinov3Config(384, 12, 6, 1536, gated=True)
DINOV3_B = Dinov3Config(768, 12, 12, 3072)
DINOV3_L = Dinov3Config(1024, 24, 16, 4096)
DINOV3_H_PLUS = Dinov3Config(1280, 32, 20, 5120, gated=True)
DINOV3_7B = Dinov3Config(4096, 40, 32, 8192, gated=True)


class Dinov3(nnx.Module):
    """DINOv3 encoder; see `__call__`."""

    def __init__(self, config: Dinov3Config, rngs: nnx.Rngs):
        c = self.config = config
        self.patch_embed = nnx.Linear(3 * c.patch**2, c.dim, dtype=c.dtype, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, c.dim), jnp.float32))
        self.register_tokens = nnx.Param(jnp.zeros((1, c.registers, c.dim), jnp.float32))
        block = partial(Block, c.dim, c.heads, c.hidden, eps=c.eps, gated=c.gated, layerscale=True, dtype=c.dtype)
        self.blocks = stacked(lambda r: block(rngs=r), c.depth, rngs)
        self.norm = layer_norm(c.dim, c.eps, rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Tokens of images (N, H, W, 3), float32 and normalised; sides must be multiples of the patch.

        Returns `cls` (N, D), `registers` (N, R, D) and `patches` (N, h*w, D) after the final norm, and
        `prenorm` (N, 1+R+h*w, D).
        """
        prefix = self.config.prefix
        prenorm, _ = self._run(images, self.embed(images))
        x = self.norm(prenorm)
        return {"cls": x[:, 0], "registers": x[:, 1:prefix], "patches": x[:, prefix:], "prenorm": prenorm}

    def hidden_states(self, images: jax.Array) -> jax.Array:
        """(depth + 1, N, 1+R+h*w, D): the embedded tokens and the tokens after each block, not normed."""
        x = self.embed(images)
        _, every = self._run(images, x, every=True)
        return jnp.concatenate([x[None], every])

    def embed(self, images: jax.Array) -> jax.Array:
        """(N, 1+R+h*w, D) float32: class token, storage tokens, patches."""
        c, (n, height, width, _) = self.config, images.shape
        if height % c.patch or width % c.patch:
            raise ValueError(f"image sides {height}x{width} must be multiples of the patch, {c.patch}")
        x = self.patch_embed(patchify(images, c.patch)).astype(jnp.float32).reshape(n, -1, c.dim)
        front = jnp.concatenate([self.cls_token[...], self.register_tokens[...]], axis=1)
        return jnp.concatenate([jnp.broadcast_to(front, (n, *front.shape[1:])), x], axis=1)

    def _run(self, images: jax.Array, x: jax.Array, every: bool = False) -> tuple[jax.Array, Any]:
        c, (_, height, width, _) = self.config, images.shape
        cos, sin = rotation((height // c.patch, width // c.patch), c.dim // c.heads, c.theta, c.prefix)

        def core(q, k, v):
            return attention(rotate(q, cos, sin), rotate(k, cos, sin), v, c.attention)

        return run_blocks(self.blocks, x, lambda attn, y, _: attn(y, core), every=every)


def rotation(size: tuple[int, int], head_dim: int, theta: float, prefix: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (prefix + h*w, 1, head_dim) float32 of every token's angles; no rotation of the prefix.

    Patch centres are mapped to [-1, 1] per axis and multiplied by 2 pi theta**-(4 k / head_dim); the row angles
    come first, then those of the column, and the whole is repeated once.
    """
    frequencies = theta ** -(np.arange(0, 1, 4 / head_dim))
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in size)
    place = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = np.tile((2 * np.pi * place * frequencies).reshape(len(place), -1), 2)
    angles = np.concatenate([np.zeros((prefix, head_dim)), angles])[:, None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
    """x (N, T, H, d) rotated in the planes (i, i + d/2), in float32; same dtype out."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos + turned * sin).astype(x.dtype)
