"""BEiT (Bao et al. 2022; microsoft/unilm) and data2vec-vision (Baevski et al. 2022): ViTs with relative positions.

The released models have no absolute positions; a table of relative positions, shared by all blocks or one per
block, is added to the attention scores. Keys have no bias (a zero in `qkv.bias`).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.blocks import Block, check_side, run_blocks, stacked
from histojax.models.layers import attention_einsum, layer_norm, patchify


@dataclasses.dataclass(frozen=True)
class BeitConfig:
    """Static description of a BEiT; the defaults are those of unilm's fine-tuned base model."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    image: int = 224  # side in pixels; the tables are not resampled
    relative: str = "layer"  # tables: one per "layer", one "shared" by all, or "none"
    absolute: bool = False  # learned absolute positions, class token included
    layerscale: bool = True
    norm: str = "mean"  # final norm: on the "mean" of the patch tokens, or on all "tokens"
    eps: float = 1e-6
    dtype: Any = jnp.float32  # of the matrix products

    @property
    def grid(self) -> int:
        """Side of the patch grid."""
        return self.image // self.patch

    @property
    def rows(self) -> int:
        """Rows of a relative position table."""
        return (2 * self.grid - 1) ** 2 + 3


BEIT_BASE = BeitConfig()  # beit_base_patch16_224_pt22k_ft22k
BEIT_BASE_PRETRAINED = BeitConfig(relative="shared", norm="tokens")  # beit_base_patch16_224_pt22k
# Hugging Face runs data2vec-vision with an epsilon of 1e-12, unlike the fairseq code it was trained with
DATA2VEC_BASE = BeitConfig(relative="shared", norm="tokens", eps=1e-12)
DATA2VEC_BASE_FT1K = BeitConfig(eps=1e-12)


class Beit(nnx.Module):
    """BEiT encoder; see `__call__`."""

    def __init__(self, config: BeitConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.patch_embed = nnx.Linear(3 * c.patch**2, c.dim, dtype=c.dtype, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, c.dim), jnp.float32))
        if c.absolute:
            self.pos_embed = nnx.Param(jnp.zeros((1, c.grid**2 + 1, c.dim), jnp.float32))
        if c.relative == "layer":
            self.layer_rel_pos = nnx.Param(jnp.zeros((c.depth, c.rows, c.heads), jnp.float32))
        if c.relative == "shared":
            self.shared_rel_pos = nnx.Param(jnp.zeros((c.rows, c.heads), jnp.float32))
        block = partial(Block, c.dim, c.heads, 4 * c.dim, eps=c.eps, layerscale=c.layerscale, dtype=c.dtype)
        self.blocks = stacked(lambda r: block(rngs=r), c.depth, rngs)
        if c.norm == "tokens":
            self.norm = layer_norm(c.dim, c.eps, rngs)
        else:
            self.fc_norm = layer_norm(c.dim, c.eps, rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Tokens of images (N, image, image, 3), float32 and normalised.

        Returns `cls` (N, D) and `patches` (N, P, D) after the last block, normed if config.norm is "tokens";
        `pooled` (N, D): the mean of the patches, normed after it if config.norm is "mean"; `prenorm` (N, 1+P, D);
        and `mean` (N, D): the mean of the patches of `prenorm`, the feature of the "BEiT" in Roth et al. 2024.
        """
        x, _ = self._run(self.embed(images))
        mean = x[:, 1:].mean(1)
        out = {"prenorm": x, "mean": mean}
        if self.config.norm == "tokens":
            x = self.norm(x)
            pooled = x[:, 1:].mean(1)
        else:
            pooled = self.fc_norm(mean)
        return {**out, "cls": x[:, 0], "patches": x[:, 1:], "pooled": pooled}

    def hidden_states(self, images: jax.Array) -> jax.Array:
        """(depth + 1, N, 1+P, D): the embedded tokens and the tokens after each block, not normed."""
        x = self.embed(images)
        _, every = self._run(x, every=True)
        return jnp.concatenate([x[None], every])

    def embed(self, images: jax.Array) -> jax.Array:
        """(N, 1+P, D) float32: class token and patches, with absolute positions if there are any."""
        c = self.config
        check_side(images, c.image, "BEiT")
        x = self.patch_embed(patchify(images, c.patch)).astype(jnp.float32).reshape(len(images), c.grid**2, c.dim)
        cls = jnp.broadcast_to(self.cls_token[...], (len(images), 1, c.dim))
        x = jnp.concatenate([cls, x], axis=1)
        return x + self.pos_embed[...] if c.absolute else x

    def _run(self, x: jax.Array, every: bool = False) -> tuple[jax.Array, Any]:
        c = self.config
        index = relative_index(c.grid)
        shared = self.shared_rel_pos[...][index] if c.relative == "shared" else jnp.zeros((), jnp.float32)

        def mix(attn, y, table):
            bias = shared if table is None else table[index]  # (T, T, H)
            core = partial(attention_einsum, bias=jnp.moveaxis(bias, -1, 0) if bias.ndim else bias)
            return attn(y, core)

        tables = self.layer_rel_pos[...] if c.relative == "layer" else None
        return run_blocks(self.blocks, x, mix, tables, every)


def relative_index(grid: int) -> np.ndarray:
    """(1 + grid**2, 1 + grid**2) int32 rows of a relative position table for every (query, key) pair.

    Patch pairs: (di + grid - 1) * (2 * grid - 1) + dj + grid - 1 with (di, dj) = query minus key position. The
    last three rows are class to patch, patch to class, class to class.
    """
    span = 2 * grid - 1
    place = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), axis=-1).reshape(-1, 2)
    step = place[:, None] - place[None] + grid - 1  # (P, P, 2)
    index = np.empty((grid**2 + 1,) * 2, np.int32)
    index[1:, 1:] = step[..., 0] * span + step[..., 1]
    index[0, :], index[:, 0], index[0, 0] = span**2, span**2 + 1, span**2 + 2
    return index
