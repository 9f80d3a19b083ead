"""Block masks for the masked-patch loss, with static shapes (Oquab et al. 2023; facebookresearch/dinov2 b8931f7).

Half of a shard's crops get a mask. Their fractions of masked patches are spread evenly over a range, so the total of
a shard hardly varies and has a bound that depends on sizes alone: indices are padded to it. `sample_masks` runs on
the device.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TRIES = 10  # for each block
# For a mask in all, far more than one needs: counts, shortfall and places stay those of the search without this limit
# (tests/ssl/test_masks.py). A GPU runs a number known in advance without asking the host
DRAWS = 64
MIN_AREA = 4.0  # patches of a block
ASPECT = 0.3  # blocks are between 0.3 and 1 / 0.3 times as high as wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskBatch:
    """Masks of G shards of C crops with N patches each, and the masked places as a list of static length M.

    Crops are in the order (image, view): crop 2 * image + view. `indices` point into the flattened (C * N) patches
    of their shard, ascending; past `count` they are 0 with weight 0. A weight is 1 / masked patches of the crop:
    the weights of a shard add up to its number of masked crops.
    """

    masks: jax.Array  # (G, C, N) bool
    indices: jax.Array  # (G, M) int32
    weights: jax.Array  # (G, M) float32
    count: jax.Array  # (G,) int32


def sample_masks(
    key: jax.Array,
    shards: int,
    crops_per_shard: int,
    grid: tuple[int, int],
    ratio: tuple[float, float] = (0.1, 0.5),
    probability: float = 0.5,
) -> MaskBatch:
    """Masks for `shards` parts of a batch of crops, each drawn and shuffled on its own; `grid` is (rows, columns).

    `ratio` bounds the share of patches that a masked crop asks for; `probability` is the share of masked crops.
    """
    patches = grid[0] * grid[1]
    keys = jax.vmap(lambda g: jax.random.fold_in(key, g))(np.arange(shards, dtype=np.int32))
    masks = jax.vmap(lambda k: _shard_masks(k, crops_per_shard, grid, ratio, probability))(keys)
    return pack(masks, upper_bound(crops_per_shard, patches, ratio, probability))


def upper_bound(crops: int, patches: int, ratio: tuple[float, float] = (0.1, 0.5), probability: float = 0.5) -> int:
    """Masked patches that a shard of `crops` crops cannot exceed: each masked crop's largest request, summed."""
    edges = ratio_edges(crops, ratio, probability)
    return int(np.floor(np.float32(patches) * edges[1:]).sum())


def ratio_edges(crops: int, ratio: tuple[float, float], probability: float) -> np.ndarray:
    """(n + 1,) float32, n = floor(crops * probability): the i-th masked crop draws its share between i and i + 1.

    Evenly spaced from both ends towards the middle, as torch.linspace rounds.
    """
    n = int(crops * probability)
    low, high = np.float32(ratio[0]), np.float32(ratio[1])
    step = (high - low) / np.float32(max(n, 1))
    i = np.arange(n + 1, dtype=np.float32)
    return np.where(i < (n + 1) // 2, low + step * i, high - step * (np.float32(n) - i)).astype(np.float32)


def block_cap(grid: tuple[int, int]) -> int:
    """The most patches that one block may add: the reference's 0.5 * side // patch * side // patch.

    Evaluated from left to right this is half the rows, rounded down, times the columns: 21 for a grid of 7 x 7.
    """
    return grid[0] // 2 * grid[1]


def pack(masks: jax.Array, size: int) -> MaskBatch:
    """The MaskBatch of masks (G, C, N) bool with room for `size` masked patches a shard."""
    per_crop = masks.sum(-1, dtype=jnp.int32)  # (G, C)
    indices, weights = jax.vmap(lambda m, c: _pack_shard(m, c, size))(masks, per_crop)
    return MaskBatch(masks, indices, weights, per_crop.sum(-1))


def gather_patches(patches: jax.Array, masks: MaskBatch) -> jax.Array:
    """(G, M, D): the tokens at the masked places, from (2B, N, D) in the order (image, view)."""
    shards = masks.indices.shape[0]
    apart = patches.reshape(shards, -1, patches.shape[-1])
    return jnp.take_along_axis(apart, masks.indices[..., None], axis=1)


def _pack_shard(masks: jax.Array, per_crop: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """(indices (size,), weights (size,)): each place of the list looks up its patch in running counts.

    Nothing is sorted or scattered, which both run element by element on a CPU.
    """
    crops, patches = masks.shape
    slot = np.arange(size, dtype=np.int32)
    ends = jnp.cumsum(per_crop)
    crop = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), crops - 1)
    within = slot - (ends - per_crop)[crop]  # how many masked patches of the crop come before
    running = jnp.dot(masks.astype(jnp.float32), np.tri(patches, dtype=np.float32).T, precision="highest")
    low, high = jnp.zeros_like(crop), jnp.full_like(crop, patches - 1)
    for _ in range(patches.bit_length()):  # the first patch of the crop with `within + 1` masked up to it
        middle = (low + high) // 2
        enough = running[crop, middle] > within
        low, high = jnp.where(enough, low, jnp.minimum(middle + 1, high)), jnp.where(enough, middle, high)
    valid = slot < ends[-1]
    indices = jnp.where(valid, crop * patches + high, 0).astype(jnp.int32)
    return indices, jnp.where(valid, 1.0 / jnp.maximum(per_crop[crop], 1).astype(jnp.float32), 0.0)


def _shard_masks(
    key: jax.Array, crops: int, grid: tuple[int, int], ratio: tuple[float, float], probability: float
) -> jax.Array:
    """(crops, N) bool: masks of one shard, shuffled over its crops."""
    draw_key, block_key = jax.random.split(key)
    edges = ratio_edges(crops, ratio, probability)
    n, patches = len(edges) - 1, grid[0] * grid[1]
    uniform = jax.random.uniform(draw_key, (n + crops,), jnp.float32)
    share = edges[:-1] + (edges[1:] - edges[:-1]) * uniform[:n]
    most = np.floor(np.float32(patches) * edges[1:]).astype(np.int32)
    requests = jnp.minimum(jnp.floor(patches * share).astype(jnp.int32), most)
    masks = block_masks(block_key, requests, grid).reshape(n, patches)
    masks = jnp.pad(masks, ((0, crops - n), (0, 0)))
    return masks[jnp.argsort(uniform[n:])]


class _Search(NamedTuple):
    """n masks in the making."""

    masks: jax.Array  # (n, rows, columns) bool
    covered: jax.Array  # (n,) int32: masked so far
    tries: jax.Array  # (n,) int32: failed draws since the last block


def block_masks(key: jax.Array, requests: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """(n, rows, columns) bool: a mask for each of `requests` (n,) int32, never with more patches than asked for.

    Rectangles are drawn until the request is met or ten draws in a row fail, DRAWS at most: a draw must be smaller
    than the grid both ways, add at least one patch, and add no more than are missing or than `block_cap`.
    """
    rows, columns = grid
    cap = block_cap(grid)

    def draw(s: _Search, u: jax.Array) -> tuple[_Search, None]:
        room = jnp.minimum(requests - s.covered, cap)
        height, width = block_size(u[0], u[1], room)
        top = jnp.floor(u[2] * (rows - height + 1)).astype(jnp.int32)
        left = jnp.floor(u[3] * (columns - width + 1)).astype(jnp.int32)
        r, c = np.arange(rows)[:, None], np.arange(columns)
        block = _within(r, top, height) & _within(c, left, width)
        new = (block & ~s.masks).sum((1, 2), dtype=jnp.int32)
        active = (s.covered < requests) & (s.tries < TRIES)
        ok = active & (height < rows) & (width < columns) & (new > 0) & (new <= room)
        masks = s.masks | (block & ok[:, None, None])
        return _Search(masks, s.covered + jnp.where(ok, new, 0), jnp.where(ok, 0, s.tries + 1)), None

    n = len(requests)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(DRAWS))
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (4 * n,), jnp.float32))(keys).reshape(DRAWS, 4, n)
    zeros = jnp.zeros_like(requests)
    start = _Search(jnp.zeros((n, rows, columns), bool), zeros, zeros)
    return jax.lax.scan(draw, start, uniform)[0].masks


def block_size(area_u: jax.Array, aspect_u: jax.Array, room: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(height, width) int32 of blocks from uniform numbers: area between 4 and `room`, log aspect uniform.

    With less than 4 patches of room the area lies between the room and 4.
    """
    area = MIN_AREA + (room - MIN_AREA) * area_u
    aspect = jnp.exp(math.log(ASPECT) * (1.0 - 2.0 * aspect_u))
    height, width = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    return height.astype(jnp.int32), width.astype(jnp.int32)


def _within(position: np.ndarray, start: jax.Array, length: jax.Array) -> jax.Array:
    offset = jnp.asarray(position - start[:, None, None])
    return (offset >= 0) & (offset < length[:, None, None])
