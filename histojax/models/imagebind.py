"""Vision trunk of ImageBind (Girdhar et al. 2023; facebookresearch/ImageBind 53680b0).

The stem is a convolution over two equal frames; its kernel is summed over time when loaded, which makes it a patch
embedding without bias. Only the trunk for images is here, up to the unit-norm embedding.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.blocks import Block, check_side, run_blocks, stacked
from histojax.models.layers import attention, layer_norm, patchify


@dataclasses.dataclass(frozen=True)
class ImageBindConfig:
    """Static description of the vision trunk; the defaults are imagebind_huge's."""

    dim: int = 1280
    depth: int = 32
    heads: int = 16
    features: int = 1024
    patch: int = 14
    image: int = 224
    eps: float = 1e-6
    attention: str = "einsum"  # see models.layers.attention
    dtype: Any = jnp.float32  # of the matrix products

    @property
    def grid(self) -> int:
        """Side of the patch grid."""
        return self.image // self.patch


IMAGEBIND_HUGE = ImageBindConfig()


class ImageBind(nnx.Module):
    """ImageBind's vision encoder; see `__call__`."""

    def __init__(self, config: ImageBindConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.patch_embed = nnx.Linear(3 * c.patch**2, c.dim, use_bias=False, dtype=c.dtype, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, c.dim), jnp.float32))
        self.pos_embed = nnx.Param(jnp.zeros((1, c.grid**2 + 1, c.dim), jnp.float32))
        self.pre_norm = layer_norm(c.dim, c.eps, rngs)
        block = partial(Block, c.dim, c.heads, 4 * c.dim, eps=c.eps, dtype=c.dtype)
        self.blocks = stacked(lambda r: block(rngs=r), c.depth, rngs)
        self.norm = layer_norm(c.dim, c.eps, rngs)
        self.head = nnx.Linear(c.dim, c.features, use_bias=False, rngs=rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Embedding of images (N, image, image, 3), float32 and normalised.

        Returns `embedding` (N, features) of unit norm, `projected` (N, features) before that, `cls` (N, D) and
        `patches` (N, P, D) after the final norm, and `prenorm` (N, 1+P, D).
        """
        x, _ = self._run(self.embed(images))
        tokens = self.norm(x)
        projected = self.head(tokens[:, 0])
        length = jnp.sqrt(jnp.square(projected).sum(-1, keepdims=True))
        return {
            "embedding": projected / jnp.maximum(length, 1e-12),
            "projected": projected,
            "cls": tokens[:, 0],
            "patches": tokens[:, 1:],
            "prenorm": x,
        }

    def hidden_states(self, images: jax.Array) -> jax.Array:
        """(depth + 1, N, 1+P, D): the normed tokens that enter the trunk, and those after each block."""
        x = self.embed(images)
        _, every = self._run(x, every=True)
        return jnp.concatenate([x[None], every])

    def embed(self, images: jax.Array) -> jax.Array:
        """(N, 1+P, D) float32: class token and patches with positions, after the norm in front of the trunk."""
        c = self.config
        check_side(images, c.image, "ImageBind")
        x = self.patch_embed(patchify(images, c.patch)).astype(jnp.float32).reshape(len(images), c.grid**2, c.dim)
        cls = jnp.broadcast_to(self.cls_token[...], (len(images), 1, c.dim))
        return self.pre_norm(jnp.concatenate([cls, x], axis=1) + self.pos_embed[...])

    def _run(self, x: jax.Array, every: bool = False) -> tuple[jax.Array, Any]:
        core = partial(attention, how=self.config.attention)
        return run_blocks(self.blocks, x, lambda attn, y, _: attn(y, core), every=every)
