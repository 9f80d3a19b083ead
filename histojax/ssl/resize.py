"""Crop and resize with Pillow's antialiased bicubic filter: two matrix products with weights made on the device.

Pillow resizes in two passes, as a rule first along rows, then along columns, and rounds to 8 bit after each; so do
these functions (Pillow: Resample.c). An output pixel needs only a few input pixels, so the output is made in
blocks, each a product with the stretch of input that it can reach: a fifth faster in all on a CPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl.color import round_levels

BLOCK = 34  # output pixels a product
_SUPPORT = 2.0  # of the bicubic kernel, in pixels of the coarser grid
Flip = tuple[jax.Array | bool, jax.Array | bool]  # vertical, horizontal


class CropPlan(NamedTuple):
    """How to resize one box: what is computed from the box alone, apart from the pixels."""

    corner: jax.Array  # (2,) int32: top and left of the square window that holds the box
    columns_first: jax.Array  # bool: resize along columns, then along rows
    turned: jax.Array  # bool: what the second pass leaves has its columns along the first axis
    firsts: jax.Array  # (2, blocks) int32: of the first and the second pass, see block_weights
    weights: jax.Array  # (2, blocks, block, reach) float32


def crop_resize(
    image: jax.Array,
    box: jax.Array,
    size: int,
    limit: tuple[int, int] | None = None,
    flip: Flip = (False, False),
    transpose: jax.Array | bool | None = None,
) -> jax.Array:
    """(3, size, size) grey levels: the box of an image (3, H, W), resized, flipped, then transposed.

    `box` is (top, left, height, width) in whole pixels, traced or not. `limit` is the largest (height, width) that
    a box can have; a tight one saves work, a larger box gives a wrong result. Flips turn the weights, and the last
    copy of the resize can leave the picture either way, so neither costs anything.
    """
    return apply_plan(image, plan_crop(box, size, _extent(image), limit, flip, transpose), size, limit)


def plan_crop(
    box: jax.Array,
    size: int,
    extent: tuple[int, int],
    limit: tuple[int, int] | None = None,
    flip: Flip = (False, False),
    transpose: jax.Array | bool | None = None,
) -> CropPlan:
    """The plan to make (size, size) pixels of a box of an image of `extent` (height, width), see crop_resize."""
    window = _window(extent, limit)
    box = jnp.asarray(box, jnp.int32)
    corner = jnp.clip(box[:2], 0, np.asarray(extent, np.int32) - np.asarray(window, np.int32))
    columns = jnp.asarray(_columns_first(box[2], box[3], size))
    start = (box[:2] - corner).astype(jnp.float32)
    length = box[2:].astype(jnp.float32)
    flips = jnp.stack([jnp.asarray(f) for f in flip])
    start, length, flips = (jnp.where(columns, x, x[::-1]) for x in (start, length, flips))
    firsts, weights = jax.vmap(lambda s, n, f: block_weights(max(window), s, n, f, size))(start, length, flips)
    turned = columns if transpose is None else columns ^ transpose
    return CropPlan(corner, columns, turned, firsts, weights)


def apply_plan(image: jax.Array, plan: CropPlan, size: int, limit: tuple[int, int] | None = None) -> jax.Array:
    """(3, size, size) grey levels of an image (3, H, W), by a plan made for its extent and the same `limit`."""
    return resample(cut_window(image, plan.corner, limit), plan, size)


def cut_window(image: jax.Array, corner: jax.Array, limit: tuple[int, int] | None = None) -> jax.Array:
    """(3, side, side) of an image (3, H, W), of the same type: the window of a plan, filled up to be square."""
    window = _window(_extent(image), limit)
    side = max(window)
    x = jax.lax.dynamic_slice(image, (0, corner[0], corner[1]), (3, *window))
    return jnp.pad(x, ((0, 0), (0, side - window[0]), (0, side - window[1])))  # either axis can be the first


def resample(x: jax.Array, plan: CropPlan, size: int) -> jax.Array:
    """(3, size, size) grey levels of the window (3, side, side) of a plan."""
    x, side = x.astype(jnp.float32), x.shape[1]
    # the three planes side by side: the passes are plain products, and copies keep rows whole
    x = _choose(plan.columns_first, x, (2, 0, 1), (1, 0, 2)).reshape(side * 3, side)
    blocks = zip(plan.firsts[0], plan.weights[0])
    parts = [jnp.dot(_stretch(x, first, weight, 1), weight.T, precision="highest") for first, weight in blocks]
    x = round_levels(jnp.concatenate(parts, 1)[:, :size]).reshape(side, 3 * size)
    blocks = zip(plan.firsts[1], plan.weights[1])
    parts = [jnp.dot(weight, _stretch(x, first, weight, 0), precision="highest") for first, weight in blocks]
    x = round_levels(jnp.concatenate(parts)[:size]).reshape(size, 3, size)
    return _choose(plan.turned, x, (1, 2, 0), (1, 0, 2))


def _stretch(x: jax.Array, first: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, first, weight.shape[1], axis)


def _extent(image: jax.Array) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _window(extent: tuple[int, int], limit: tuple[int, int] | None) -> tuple[int, int]:
    return (min(limit[0], extent[0]), min(limit[1], extent[1])) if limit else extent


def _columns_first(height: jax.Array | int, width: jax.Array | int, size: int) -> jax.Array | bool:
    """Pillow 13 begins with the columns when they shrink much more than the rows; before, it never did.

    The order matters only through the 8-bit rounding between the passes, and the cut at 0 and 255.
    """
    return (height > size) & (height - size > 2 * (width - size))


def _choose(condition: jax.Array, x: jax.Array, yes: tuple[int, ...], no: tuple[int, ...]) -> jax.Array:
    return jax.lax.cond(condition, lambda x: x.transpose(yes), lambda x: x.transpose(no), x)


def block_weights(
    extent: int, start: jax.Array, length: jax.Array, flip: jax.Array | bool, size: int
) -> tuple[jax.Array, jax.Array]:
    """(firsts (blocks,) int32, weights (blocks, block, reach) float32) to resample one axis.

    Output pixels of block b are weights[b] @ input[firsts[b] : firsts[b] + reach]. The input has `extent` pixels,
    of which [start, start + length) become `size` pixels, in reverse if `flip`; past `size` the last repeats.
    """
    blocks = -(-size // BLOCK)
    block = -(-size // blocks)
    most = max(extent / size, 1.0)
    reach = math.ceil((block - 1) * most + 2 * _SUPPORT * most) + 2
    reach = min(extent, -(-reach // 16) * 16)  # whole vectors
    pixel = np.minimum(np.arange(blocks * block), size - 1).astype(np.float32).reshape(blocks, block)
    scale = length / size
    support = _SUPPORT * jnp.maximum(scale, 1.0)
    centre = start + (jnp.where(flip, size - 1 - pixel, pixel) + 0.5) * scale
    low = jnp.floor(jnp.minimum(centre[:, 0], centre[:, -1]) - support).astype(jnp.int32)
    firsts = jnp.clip(low, 0, extent - reach)
    position = firsts[:, None, None].astype(jnp.float32) + np.arange(reach, dtype=np.float32)
    return firsts, _weights(position, centre[..., None], start, length, scale)


def _weights(
    position: jax.Array, centre: jax.Array, start: jax.Array, length: jax.Array, scale: jax.Array
) -> jax.Array:
    """Keys' cubic kernel with a = -0.5 about the centres, widened when shrinking; pixels off the box count 0."""
    weights = _cubic((position + 0.5 - centre) / jnp.maximum(scale, 1.0))
    weights = jnp.where((position >= start) & (position < start + length), weights, 0.0)
    # without the barrier XLA:GPU writes the formula above into every use of a weight, and compiles for minutes
    weights = jax.lax.optimization_barrier(weights)
    return weights / weights.sum(-1, keepdims=True)


def _cubic(x: jax.Array) -> jax.Array:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < _SUPPORT, far, 0.0))


def resize(images: jax.Array, size: int) -> jax.Array:
    """(N, size, size, 3) float32 grey levels of images (N, H, W, 3), both sides resized as Pillow's BICUBIC.

    Images that already have that size only change their type.
    """
    images = images.astype(jnp.float32)
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    passes = [("nhwc,ow->nhoc", width), ("nhwc,oh->nowc", height)]
    for product, extent in passes[:: -1 if _columns_first(height, width, size) else 1]:
        scale = np.float32(extent / size)
        centre = (np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5)) * scale
        position = np.arange(extent, dtype=np.float32)
        weights = _weights(*map(jnp.float32, (position, centre, 0.0, extent, scale)))  # (size, extent)
        images = round_levels(jnp.einsum(product, images, weights, precision="highest"))
    return images
