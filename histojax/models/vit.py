"""The vision transformer of DINOv2 (Oquab et al. 2023; facebookresearch/dinov2) in Flax NNX.

One module serves training and inference. Parameters of all blocks are stacked on a leading axis and run by one
scan, so that forty blocks compile as fast as one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from histojax.models.layers import (
    Attention,
    LayerScale,
    Mlp,
    SwiGlu,
    attention,
    init_normal,
    init_uniform,
    layer_norm,
    patchify,
    swiglu_hidden,
)
from histojax.models.positions import resample
from histojax.models.sizes import SIZES


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Static description of a ViT; the defaults are DINOv2's."""

    dim: int
    depth: int
    heads: int
    patch: int = 14
    image: int = 518  # side in pixels that the stored position grid belongs to
    registers: int = 0
    ffn: str = "mlp"  # or "swiglu"
    hidden: int | None = None  # feed-forward width; None: 4 * dim, or DINOv2's SwiGLU rule
    layerscale: float | None = 1e-5  # initial value; None: no LayerScale
    eps: float = 1e-6
    positions: str = "cls"  # rows of pos_embed: "cls" + patches, "patches" only, or "all" tokens
    interpolation: str = "offset"  # see common.bicubic
    mask_token: bool = True
    drop_path: float = 0.0  # stochastic depth while training
    drop_path_uniform: bool = True
    attention: str = "einsum"  # see models.layers.attention
    remat: str = "none"  # "block": keep block inputs only; "dots": the costly products too, see _remat
    unroll: int = 1  # blocks per scan iteration
    dtype: Any = jnp.float32  # of the matrix products; parameters, norms and the residual stream stay float32

    @property
    def grid(self) -> int:
        """Side of the stored position grid in patches."""
        return self.image // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class and registers."""
        return 1 + self.registers


class Block(nnx.Module):
    """Pre-norm transformer block; the two residual branches are methods so that stochastic depth can skip them."""

    def __init__(self, c: ViTConfig, rngs: nnx.Rngs):
        hidden = c.hidden or (swiglu_hidden(c.dim) if c.ffn == "swiglu" else 4 * c.dim)
        ffn = SwiGlu if c.ffn == "swiglu" else Mlp
        self.norm1, self.norm2 = layer_norm(c.dim, c.eps, rngs), layer_norm(c.dim, c.eps, rngs)
        self.attn = Attention(c.dim, c.heads, dtype=c.dtype, kernel_init=init_normal(0.02), rngs=rngs)
        self.mlp = ffn(c.dim, hidden, dtype=c.dtype, kernel_init=init_normal(0.02), rngs=rngs)
        if c.layerscale is not None:
            self.ls1, self.ls2 = LayerScale(c.dim, c.layerscale), LayerScale(c.dim, c.layerscale)
        self.scaled, self.how = c.layerscale is not None, c.attention

    def attend(self, x: jax.Array) -> jax.Array:
        gamma = self.ls1.gamma[...] if self.scaled else None
        return self.attn(self.norm1(x), partial(attention, how=self.how), gamma).astype(jnp.float32)

    def feed(self, x: jax.Array) -> jax.Array:
        return self.mlp(self.norm2(x), self.ls2.gamma[...] if self.scaled else None).astype(jnp.float32)

    def __call__(self, x: jax.Array, rate: float = 0.0, key: jax.Array | None = None, shards: int = 1) -> jax.Array:
        if not rate or key is None:
            x = checkpoint_name(x + self.attend(x), "residual")
            return x + self.feed(x)
        first, second = jax.random.split(key)
        x = drop_residual(first, x, self.attend, rate, shards)
        return drop_residual(second, x, self.feed, rate, shards)


def drop_residual(key: jax.Array, x: jax.Array, branch, rate: float, shards: int = 1) -> jax.Array:
    """x plus `branch` computed for a random subset of the batch only: DINOv2's batch-subset stochastic depth.

    Of the b rows of each of `shards` equal parts, max(floor(b * (1 - rate)), 1) are kept and their residual is
    scaled by b / kept, so that the expected value is that of no dropping. Shape (B, T, D) in and out.
    """
    rows = x.shape[0] // shards
    kept = max(int(rows * (1 - rate)), 1)
    keys = jax.random.split(key, shards)
    index = jax.vmap(lambda k: jax.random.permutation(k, rows)[:kept])(keys)[:, :, None, None]
    parts = x.reshape(shards, rows, *x.shape[1:])
    subset = jnp.take_along_axis(parts, index, axis=1)
    residual = branch(subset.reshape(shards * kept, *x.shape[1:])).reshape(subset.shape)
    add = jax.vmap(lambda part, i, r: part.at[i].add(r * (rows / kept), unique_indices=True))
    return add(parts, index[:, :, 0, 0], residual).reshape(x.shape)


class ViT(nnx.Module):
    """Vision transformer encoder; see `__call__`."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        c = self.config = config
        rows = {"cls": 1, "patches": 0, "all": c.prefix}[c.positions] + c.grid**2
        bound = (3 * c.patch**2) ** -0.5
        self.patch_embed = nnx.Linear(
            3 * c.patch**2,
            c.dim,
            dtype=c.dtype,
            kernel_init=init_uniform(bound),
            bias_init=init_uniform(bound),
            rngs=rngs,
        )
        self.cls_token = nnx.Param(init_normal(1e-6)(rngs.params(), (1, 1, c.dim), jnp.float32))
        self.pos_embed = nnx.Param(init_normal(0.02)(rngs.params(), (1, rows, c.dim), jnp.float32))
        if c.mask_token:
            self.mask_token = nnx.Param(jnp.zeros((1, c.dim), jnp.float32))
        if c.registers:
            self.register_tokens = nnx.Param(init_normal(1e-6)(rngs.params(), (1, c.registers, c.dim), jnp.float32))
        self.blocks = nnx.split_rngs(splits=c.depth)(nnx.vmap(lambda r: Block(c, r)))(rngs)
        self.norm = layer_norm(c.dim, c.eps, rngs)

    def __call__(
        self,
        images: jax.Array,
        masks: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        shards: int = 1,
        first_blocks: Any = None,
        gather: Callable[[Any], Any] = lambda params: params,
    ) -> dict[str, jax.Array]:
        """Tokens of images (N, H, W, 3), float32 and normalised; sides must be multiples of the patch.

        Returns float32 `cls` (N, D), `registers` (N, R, D), `patches` (N, h*w, D), all after the final norm, and
        `prenorm` (N, 1+R+h*w, D). Where `masks` (N, h*w) bool is true the mask token replaces the patch. `key`
        turns on stochastic depth, drawn for each of `shards` equal parts of the batch. `first_blocks` are stacked
        parameters of blocks that run before the module's own; together they are `depth`. `gather` is called with
        the parameters of each block where they are about to be used.
        """
        x = self.embed(images, masks)
        prenorm = self._run_blocks(x, key, shards, first_blocks, gather)
        return self._split(prenorm)

    def intermediate(self, images: jax.Array, blocks: int | tuple[int, ...] = 1, norm: bool = True) -> list[dict]:
        """Tokens after chosen blocks: the last `blocks` ones, or those numbered in a tuple, in rising order.

        Each is a dict as of `__call__`; registers are never among the patches. `norm` applies the final norm.
        """
        depth = self.config.depth
        wanted = range(depth - blocks, depth) if isinstance(blocks, int) else sorted(blocks)
        graph, stacked = nnx.split(self.blocks)

        def body(x, params):
            x = nnx.merge(graph, params)(x)
            return x, x

        _, every = jax.lax.scan(body, self.embed(images), stacked)
        return [self._split(every[i], norm) for i in wanted]

    def embed(self, images: jax.Array, masks: jax.Array | None = None) -> jax.Array:
        """(N, 1+R+h*w, D) float32: patches, mask tokens, positions, then class token and registers in front."""
        c, (n, height, width, _) = self.config, images.shape
        size = (height // c.patch, width // c.patch)
        if (size[0] * c.patch, size[1] * c.patch) != (height, width):
            raise ValueError(f"image sides {height}x{width} must be multiples of the patch, {c.patch}")
        x = patchify(images, c.patch).reshape(n, size[0] * size[1], -1)
        x = self.patch_embed(x).astype(jnp.float32)
        if masks is not None:
            x = jnp.where(masks[..., None], self.mask_token[...][None], x)
        front, patches = self.positions(size)
        tokens = [self.cls_token[...]] + ([self.register_tokens[...]] if c.registers else [])
        head = jnp.concatenate(tokens, axis=1) + front
        return jnp.concatenate([jnp.broadcast_to(head, (n, *head.shape[1:])), x + patches], axis=1)

    def positions(self, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Position rows for class and registers (1, 1+R, D), zero where they have none, and patches (1, h*w, D)."""
        c, table = self.config, self.pos_embed[...]
        rows = table.shape[1] - c.grid**2
        front = jnp.pad(table[:, :rows], [(0, 0), (0, c.prefix - rows), (0, 0)])
        patches = table[:, rows:]
        if size != (c.grid, c.grid):
            patches = resample(patches[0], size, c.interpolation)[None]
        return front, patches

    def _split(self, prenorm: jax.Array, norm: bool = True) -> dict[str, jax.Array]:
        x, prefix = self.norm(prenorm) if norm else prenorm, self.config.prefix
        return {"cls": x[:, 0], "registers": x[:, 1:prefix], "patches": x[:, prefix:], "prenorm": prenorm}

    def _run_blocks(
        self, x: jax.Array, key: jax.Array | None, shards: int, first_blocks: Any, gather: Callable[[Any], Any]
    ) -> jax.Array:
        """The residual stream after all blocks, the first ones and the module's own in one scan each."""
        c = self.config
        keys = None if key is None or not c.drop_path else jax.random.split(key, c.depth)
        stacks, start = [nnx.split(self.blocks)], 0
        if first_blocks is not None:
            plain = nnx.graphdef(nnx.eval_shape(lambda: Block(c, nnx.Rngs(0))))
            stacks.insert(0, (plain, first_blocks))
        for graph, stacked in stacks:
            count = len(jax.tree.leaves(stacked)[0])
            own = None if keys is None else keys[start : start + count]

            def run(x: jax.Array, params: Any, rate: float, key: jax.Array | None, graph: Any = graph) -> jax.Array:
                return nnx.merge(graph, gather(params))(x, rate, key, shards)

            if own is None or c.drop_path_uniform:
                x = self._scan(x, run, stacked, own)
            else:
                x = self._unrolled(x, run, stacked, own, start)
            start += count
        return x

    def _scan(self, x: jax.Array, run: Callable[..., jax.Array], stacked: Any, keys: jax.Array | None) -> jax.Array:
        c = self.config

        def body(x, layer):
            params, layer_key = layer
            return run(x, params, c.drop_path, layer_key), None

        return jax.lax.scan(_remat(body, c), x, (stacked, keys), unroll=c.unroll)[0]

    def _unrolled(
        self, x: jax.Array, run: Callable[..., jax.Array], stacked: Any, keys: jax.Array, start: int
    ) -> jax.Array:
        """Rates that differ by block keep different numbers of rows, which a scan cannot express."""
        c = self.config
        for i, layer_key in enumerate(keys):
            rate = c.drop_path * (start + i) / max(c.depth - 1, 1)
            params = jax.tree.map(lambda p: p[i], stacked)  # noqa: B023
            x = _remat(lambda x, p, k: run(x, p, rate, k), c)(x, params, layer_key)  # noqa: B023
        return x


def _remat(body: Callable, c: ViTConfig) -> Callable:
    """`body`, recomputed in the backward pass: not at all, but for the big products ("dots"), or whole.

    With 16-bit products the float32 residual between attention and feed-forward would be the second largest array to
    keep; it is worked out again from the attention's output, by the smallest product of a block.
    """
    if c.remat == "none":
        return body
    kept = ["qkv", "attention", "ffn"] + (["residual"] if c.dtype == jnp.float32 else [])
    policy = jax.checkpoint_policies.save_only_these_names(*kept) if c.remat == "dots" else None
    return jax.checkpoint(body, prevent_cse=False, policy=policy)


def vit_config(size: str, **changes: Any) -> ViTConfig:
    """The configuration of a named size; `changes` are fields of ViTConfig."""
    dim, depth, heads, ffn = SIZES[size]
    fields: dict[str, Any] = {"ffn": ffn}
    return ViTConfig(dim, depth, heads, **{**fields, **changes})
