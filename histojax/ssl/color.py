"""Pixel operations of the training crops on 8-bit values, matching Pillow and torchvision to the grey level.

DINOv2 augments PIL images, so every operation ends in whole numbers 0..255. Here images are planar, (3, H, W)
float32 that hold such numbers: planes vectorise about twice as well as interleaved pixels on a CPU. Each operation
takes an image and its parameter and returns an image. References are Pillow (Image.convert, ImageEnhance, Blend.c,
Convert.c) and torchvision (ColorJitter, GaussianBlur), as facebookresearch/dinov2 b8931f7 calls them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

BLUR_TAPS = 9


def round_levels(x: jax.Array) -> jax.Array:
    """Grey levels 0..255: halves go up, as in Pillow's fixed-point filters."""
    return jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)


def luma(image: jax.Array) -> jax.Array:
    """(...) grey levels of an image (3, ...), Pillow's mode "L" (ITU-R 601 in 16-bit fixed point).

    The sum stays below 2**24, so float32 holds it exactly.
    """
    red, green, blue = image
    return jnp.floor((red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0) * 2.0**-16)


def grayscale(image: jax.Array) -> jax.Array:
    """The grey image with three equal planes."""
    return jnp.broadcast_to(luma(image), image.shape)


def blend(background: jax.Array | float, image: jax.Array, factor: jax.Array) -> jax.Array:
    """background + factor * (image - background), cut to 0..255 and truncated (not rounded) as Pillow does."""
    return jnp.floor(jnp.clip(background + factor * (image - background), 0.0, 255.0))


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with black; factor 1 changes nothing."""
    return blend(0.0, image, factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the rounded mean grey of the image; factor 1 changes nothing."""
    total = jnp.sum(luma(image).astype(jnp.int32))  # float32 sums are inexact past 256 x 256 pixels
    count = image[0].size
    mean = (2 * total + count) // (2 * count)
    return blend(mean.astype(jnp.float32), image, factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the grey image; factor 1 changes nothing."""
    return blend(luma(image), image, factor)


def hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turn the hue by `shift` of the circle (-0.5..0.5), in trunc(255 * shift) levels of an 8-bit hue, wrapped."""
    h, s, v = rgb_to_hsv(image)
    h = h + jnp.trunc(255.0 * shift)
    return hsv_to_rgb(jnp.where(h < 0, h + 256.0, jnp.where(h > 255.0, h - 256.0, h)), s, v)


def rgb_to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(H, S, V), each (...) in levels 0..255, of an image (3, ...); H and S are truncated as in Pillow."""
    red, green, blue = image
    high = jnp.maximum(red, jnp.maximum(green, blue))
    low = jnp.minimum(red, jnp.minimum(green, blue))
    chroma = high - low
    # hue in sixths of the circle: that of the nearest primary colour, and how far the middle value moves it
    middle = red + green + blue - high - low
    q = (high - middle) / jnp.maximum(chroma, 1.0)
    sixths = jnp.where(
        red == high,
        jnp.where(blue == low, 1.0 - q, q - 1.0),
        jnp.where(
            green == high,
            jnp.where(blue == low, 1.0 + q, 3.0 - q),
            jnp.where(red == low, 3.0 + q, 5.0 - q),
        ),
    )
    # XLA multiplies by the rounded inverse of a constant, so the divisor must not look like one
    turn = sixths / jnp.where(chroma > 0, 6.0, 1.0)
    turn = jnp.where(turn < 0, 1.0 + turn, turn)
    h = jnp.floor(turn * 255.0)
    # Pillow truncates the exact product. The float32 product may have been rounded up to a whole number h: then
    # 255 turn < h, and 256 turn - h is exact
    h = jnp.where(turn * 256.0 - h < turn, h - 1.0, h)
    s = jnp.floor(chroma * 255.0 / jnp.maximum(high, 1.0))
    return jnp.where(chroma == 0, 0.0, h), s, high


def hsv_to_rgb(h: jax.Array, s: jax.Array, v: jax.Array) -> jax.Array:
    """(3, ...) image of levels H, S, V (...); the inverse of rgb_to_hsv up to its truncation."""
    sector = h * (6.0 / 255.0)
    # how pure red, green and blue are; no array constants, which a vmapped switch cannot take inside shard_map
    red, green, blue = jnp.abs(sector - 3.0) - 1.0, 2.0 - jnp.abs(sector - 2.0), 2.0 - jnp.abs(sector - 4.0)
    pure = jnp.clip(jnp.stack([red, green, blue]), 0.0, 1.0)
    return jnp.floor(v * (1.0 - s * (1.0 / 255.0) * (1.0 - pure)) + 0.5)


def solarize(image: jax.Array, threshold: float = 128.0) -> jax.Array:
    """Invert the levels at or above the threshold."""
    return jnp.where(image >= threshold, 255.0 - image, image)


@jax.custom_batching.custom_vmap
def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur with 9 x 9 taps, reflected borders, rounded once at the end (halves to even, as torch).

    `sigma` in pixels. Rows and columns are blurred one after the other without rounding between.
    """
    return _blur_planes(image, jnp.broadcast_to(sigma, image.shape[:1]))


@gaussian_blur.def_vmap
def _blur_many(count: int, batched: list[bool], image: jax.Array, sigma: jax.Array) -> tuple[jax.Array, bool]:
    """The planes of all images lie on one axis: XLA:GPU tries tile sizes for every axis of what it fuses, and a
    sum of nine shifted pictures with five axes has many."""
    image = image if batched[0] else jnp.broadcast_to(image, (count, *image.shape))
    sigma = sigma if batched[1] else jnp.broadcast_to(sigma, (count,))
    planes = image.reshape(-1, *image.shape[2:])
    return _blur_planes(planes, jnp.repeat(sigma, image.shape[1])).reshape(image.shape), True


def _blur_planes(planes: jax.Array, sigma: jax.Array) -> jax.Array:
    """Planes (N, H, W), blurred each with its sigma (N,)."""
    reach = BLUR_TAPS // 2
    taps = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1, dtype=jnp.float32) / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(-1, keepdims=True))[..., None, None]  # (N, 9, 1, 1)
    for axis in (1, 2):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        # the barrier keeps the padded copy out of the sum, where each tap would work out the border anew
        padded = jax.lax.optimization_barrier(jnp.pad(planes, pad, mode="reflect"))
        size = planes.shape[axis]
        parts = [taps[:, i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(BLUR_TAPS)]
        planes = functools.reduce(jnp.add, parts)
    return jnp.clip(jnp.round(planes), 0.0, 255.0)


JITTERS = (brightness, contrast, saturation, hue)


def color_jitter(image: jax.Array, order: jax.Array, factors: jax.Array, with_hue: bool = True) -> jax.Array:
    """The four JITTERS in the order given by `order` (4,) int32, each with its entry of `factors` (4,).

    Without the hue the other three: turned by nothing it would still round, and torchvision leaves it out too.
    """
    jitters = JITTERS if with_hue else (*JITTERS[:3], lambda x, shift: x)

    def one(i: jax.Array, x: jax.Array) -> jax.Array:
        which = order[i]
        return jax.lax.switch(which, jitters, x, factors[which])

    return jax.lax.fori_loop(0, len(JITTERS), one, image)
