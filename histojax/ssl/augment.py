"""Multi-crop augmentation of DINOv2 on the device (Oquab et al. 2023; facebookresearch/dinov2, augmentations.py).

Two global and several local crops of each image, all drawn from the same source: random resized crop, flips,
colour jitter, grey, blur, solarize, normalisation, on 8-bit values between the steps as in the reference. The
parameters are drawn first (`sample_crops`); `apply_crop` is a pure function of an image and parameters.

For tissue there are two more, off by default: transposition, which with both flips gives the eight positions that a
square tile can lie in, and jitter of the stains, before that of the colours (`histojax.ssl.stain`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl.color import color_jitter, gaussian_blur, grayscale, solarize
from histojax.ssl.resize import CropPlan, apply_plan, crop_resize, cut_window, plan_crop, resample, resize
from histojax.ssl.stain import jitter_stains

__all__ = ["CropConfig", "CropParams", "apply_crop", "multi_crop", "normalize", "resize", "sample_crops"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
INTENDED_BLUR = (1.0, 0.1, 0.5)
ASPECT = 4 / 3  # crops are between 3:4 and 4:3
_TRIES = 10
_DRAWS = (_TRIES, _TRIES, 2, 2, 4, 4, 4, 1)  # area, aspect, corner, flips, order, factors, chances, sigma
_NUMBERS = sum(_DRAWS)
_TISSUE_DRAWS = (2, 3, 3)  # chances, scales and shifts of three stains
_TISSUE_FOLD = 1 << 20  # of the key of these numbers, apart from the counters of all others


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """Sizes in pixels, scales as shares of the image's area, probabilities, and jitter ranges (1 +- x; hue +- x).

    The ranges of the stains' scale (1 +- x) and shift (+- x) are in the units of ssl.stain. `blur_p` is for the first
    global, the second global and the local crops. The released DINOv2 weights were trained with (0.0, 0.9, 0.5),
    because the reference passes the probability to skip; INTENDED_BLUR is what was meant.
    """

    global_px: int = 224
    local_px: int = 98
    local_crops: int = 8
    global_scale: tuple[float, float] = (0.32, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.32)
    hflip: float = 0.5
    vflip: float = 0.5
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_p: float = 0.2
    blur_p: tuple[float, float, float] = (0.0, 0.9, 0.5)
    solarize_p: float = 0.2  # of the second global crop only
    aspect: float = ASPECT  # the longer side is at most so many times the shorter one
    transpose: float = 0.0
    hed_p: tuple[float, float, float] = (0.0, 0.0, 0.0)  # for the same crops as blur_p
    hed_scale: float = 0.2
    hed_shift: float = 0.01
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


class TissueParams(NamedTuple):
    """What else is random about one crop where the operations for tissue are on."""

    transpose: jax.Array  # bool
    stain: jax.Array  # bool
    scale: jax.Array  # (3,) float32, of haematoxylin, eosin and DAB
    shift: jax.Array  # (3,) float32, same three, see ssl.stain


class CropParams(NamedTuple):
    """What is random about one crop; with leading axes, about many."""

    box: jax.Array  # (4,) int32: top, left, height, width
    flip: jax.Array  # (2,) bool: vertical, horizontal
    jitter: jax.Array  # bool
    order: jax.Array  # (4,) int32: of brightness, contrast, saturation, hue
    factors: jax.Array  # (4,) float32, same four
    gray: jax.Array  # bool
    blur: jax.Array  # bool
    sigma: jax.Array  # float32, pixels
    solarize: jax.Array  # bool
    tissue: TissueParams | None = None  # None: these operations are off


def multi_crop(
    key: jax.Array,
    images: jax.Array,
    first_index: jax.Array | int = 0,
    config: CropConfig = CropConfig(),
    batching: str = "map",
) -> tuple[jax.Array, jax.Array]:
    """(global (B, 2, G, G, 3), local (B, L, l, l, 3)), float32 normalised, of images (B, H, W, 3) uint8.

    `first_index` is the place of the first image in the whole batch: the crops of an image depend on the key and
    its place alone, so parts of a batch made on several devices equal the batch made on one. `batching` "map"
    makes one crop after the other and computes only what was drawn, "vmap" all at once (for accelerators).
    """
    if batching not in ("map", "vmap"):
        raise ValueError(f'batching={batching!r}: expected "map" or "vmap"')
    number, height, width = images.shape[:3]
    places = jnp.asarray(first_index, jnp.int32) + np.arange(number, dtype=np.int32)
    params = jax.vmap(lambda i: sample_crops(jax.random.fold_in(key, i), height, width, config))(places)
    groups = tuple(jax.tree.map(lambda x: x[:, part], params) for part in (slice(0, 2), slice(2, None)))  # noqa: B023
    kinds = (config.global_px, config.global_scale), (config.local_px, config.local_scale)
    if batching == "vmap":
        made = [_crops_at_once(images, group, *kind, config) for group, kind in zip(groups, kinds)]
        return made[0], made[1]

    def one_image(inputs: tuple) -> tuple[jax.Array, jax.Array]:
        image, first, second = inputs
        planar = jnp.moveaxis(image, -1, 0).astype(jnp.float32)
        return _crops_in_turn(planar, first, *kinds[0], config), _crops_in_turn(planar, second, *kinds[1], config)

    return jax.lax.map(one_image, (images, *groups))


def _crops_in_turn(
    image: jax.Array, params: CropParams, size: int, scale: tuple[float, float], config: CropConfig
) -> jax.Array:
    """(n, size, size, 3): the crops of one planar image by the parameters of n crops."""
    if not len(params.gray):
        return jnp.zeros((0, size, size, 3), jnp.float32)
    extent = (image.shape[1], image.shape[2])
    limit = largest_box(*extent, scale, config.aspect)
    # all weights of an image at once: inside the loop XLA fuses them into each use, and works them out many times
    plans = _plan_crops(params, size, extent, limit)

    def one(inputs: tuple[CropParams, CropPlan]) -> jax.Array:
        return apply_color(apply_plan(image, inputs[1], size, limit), inputs[0], config)

    return jax.lax.map(one, (params, plans))


def _crops_at_once(
    images: jax.Array, params: CropParams, size: int, scale: tuple[float, float], config: CropConfig
) -> jax.Array:
    """(B, n, size, size, 3): the crops of images (B, H, W, 3) by the parameters (B, n, ...) of n crops of each.

    The crops of all images lie on one axis: XLA:GPU tries tile sizes for every axis of what it fuses.
    """
    number, count = params.gray.shape
    if not count:
        return jnp.zeros((number, 0, size, size, 3), jnp.float32)
    extent = (images.shape[1], images.shape[2])
    limit = largest_box(*extent, scale, config.aspect)
    params = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
    plans = _plan_crops(params, size, extent, limit)
    planar = jnp.moveaxis(images, -1, 1)
    cut = jax.vmap(jax.vmap(lambda image, corner: cut_window(image, corner, limit), (None, 0)))
    windows = cut(planar, plans.corner.reshape(number, count, 2))
    windows = windows.reshape(-1, *windows.shape[2:])
    crops = jax.vmap(lambda x, plan, p: apply_color(resample(x, plan, size), p, config))(windows, plans, params)
    return crops.reshape(number, count, size, size, 3)


def _plan_crops(params: CropParams, size: int, extent: tuple[int, int], limit: tuple[int, int]) -> CropPlan:
    """The plans of n crops of images of `extent` (height, width), no box larger than `limit`."""
    return jax.vmap(lambda p: plan_crop(p.box, size, extent, limit, (p.flip[0], p.flip[1]), _transpose(p)))(params)


def _transpose(params: CropParams) -> jax.Array | None:
    return params.tissue.transpose if params.tissue else None


def apply_crop(image: jax.Array, params: CropParams, size: int, config: CropConfig = CropConfig()) -> jax.Array:
    """(size, size, 3) float32 normalised: the crop of a planar image (3, H, W) of grey levels 0..255."""
    crop = crop_resize(image, params.box, size, None, (params.flip[0], params.flip[1]), _transpose(params))
    return apply_color(crop, params, config)


def apply_color(x: jax.Array, params: CropParams, config: CropConfig = CropConfig()) -> jax.Array:
    """(H, W, 3) float32 normalised: all but the crop and its position, of a planar image (3, H, W)."""
    if (tissue := params.tissue) and any(config.hed_p):
        x = _if(tissue.stain, lambda x: jitter_stains(x, tissue.scale, tissue.shift), x)
    x = _if(params.jitter, lambda x: color_jitter(x, params.order, params.factors, config.hue > 0), x)
    x = _if(params.gray, grayscale, x)
    x = _if(params.blur, lambda x: gaussian_blur(x, params.sigma), x)
    x = _if(params.solarize, solarize, x)
    return normalize(jnp.moveaxis(x, 0, -1), config)


def _if(drawn: jax.Array, operation: Callable, x: jax.Array) -> jax.Array:
    return jax.lax.cond(drawn, operation, lambda x: x, x)


def normalize(images: jax.Array, config: CropConfig = CropConfig()) -> jax.Array:
    """Float32 (..., 3) with the config's mean and standard deviation taken out, of grey levels 0..255."""
    scale = 1.0 / (255.0 * np.asarray(config.std, np.float64))
    shift = np.asarray(config.mean, np.float64) / np.asarray(config.std, np.float64)
    return images.astype(jnp.float32) * scale.astype(np.float32) - shift.astype(np.float32)


def sample_crops(key: jax.Array, height: int, width: int, config: CropConfig) -> CropParams:
    """Parameters of the 2 + L crops of one image of height x width pixels, global crops first.

    All come from one row of uniform numbers a crop, each number used once: one call of the generator compiles in a
    tenth of the time that a key for every parameter takes.
    """
    local = config.local_crops
    uniform = jax.random.uniform(key, ((2 + local) * _NUMBERS,), jnp.float32).reshape(2 + local, _NUMBERS)
    scales = np.asarray([config.global_scale] * 2 + [config.local_scale] * local, np.float32)
    blur = np.asarray(config.blur_p[:2] + config.blur_p[2:] * local, np.float32)
    invert = np.asarray((0.0, config.solarize_p) + (0.0,) * local, np.float32)
    sample = jax.vmap(lambda u, s, b, i: sample_crop(u, height, width, s, b, i, config))
    return sample(uniform, scales, blur, invert)._replace(tissue=sample_tissue(key, config))


def sample_tissue(key: jax.Array, config: CropConfig) -> TissueParams | None:
    """Parameters (2 + L, ...) of the operations for tissue, None where all of them are off.

    From a key of their own, all or none: a run without them draws what it drew before there were any, and one of them
    draws the same with and without the others.
    """
    if not (config.transpose or any(config.hed_p)):
        return None
    local, numbers = config.local_crops, sum(_TISSUE_DRAWS)
    uniform = jax.random.uniform(jax.random.fold_in(key, _TISSUE_FOLD), ((2 + local) * numbers,), jnp.float32)
    chance, scale, shift = jnp.split(uniform.reshape(2 + local, numbers), np.cumsum(_TISSUE_DRAWS)[:-1], axis=1)
    stain = np.asarray(config.hed_p[:2] + config.hed_p[2:] * local, np.float32)
    return TissueParams(
        transpose=chance[:, 0] < np.float32(config.transpose),
        stain=chance[:, 1] < stain,
        scale=1.0 + np.float32(config.hed_scale) * (2.0 * scale - 1.0),
        shift=np.float32(config.hed_shift) * (2.0 * shift - 1.0),
    )


def sample_crop(
    uniform: jax.Array,
    height: int,
    width: int,
    scale: jax.Array,
    blur_p: jax.Array | float,
    solarize_p: jax.Array | float,
    config: CropConfig,
) -> CropParams:
    """Parameters of one crop from _NUMBERS uniform numbers; `scale` (2,) is the range of the share of the area."""
    area, aspect, corner, flip, order, factors, chance, sigma = jnp.split(uniform, np.cumsum(_DRAWS)[:-1])
    chances = [jnp.asarray(p, jnp.float32) for p in (config.jitter_p, config.grayscale_p, blur_p, solarize_p)]
    jitter, gray, blur, invert = chance < jnp.stack(chances)
    return CropParams(
        box=sample_box(area, aspect, corner, height, width, scale, config.aspect),
        flip=flip < np.asarray([config.vflip, config.hflip], np.float32),
        jitter=jitter,
        order=sample_order(order),
        factors=sample_factors(factors, config),
        gray=gray,
        blur=blur,
        sigma=0.1 + (2.0 - 0.1) * sigma[0],
        solarize=invert,
    )


def sample_order(uniform: jax.Array) -> jax.Array:
    """(4,) int32: a random order of the four jitters, the ranks of four uniform numbers."""
    i = np.arange(4)
    before = (uniform < uniform[:, None]) | ((uniform == uniform[:, None]) & (i < i[:, None]))
    return before.sum(1, dtype=jnp.int32)


def sample_factors(uniform: jax.Array, config: CropConfig) -> jax.Array:
    """(4,) float32: factors of brightness, contrast and saturation (1 +- range, at least 0), shift of the hue."""
    reach = [config.brightness, config.contrast, config.saturation]
    low = np.asarray([max(0.0, 1.0 - r) for r in reach] + [-config.hue], np.float32)
    high = np.asarray([1.0 + r for r in reach] + [config.hue], np.float32)
    return jnp.asarray(low + (high - low) * uniform)


def sample_box(
    area: jax.Array,
    aspect: jax.Array,
    corner: jax.Array,
    height: int,
    width: int,
    scale: jax.Array,
    most: float = ASPECT,
) -> jax.Array:
    """(4,) int32 (top, left, height, width) of a random resized crop as torchvision draws it.

    Of uniform numbers `area` (10,), `aspect` (10,) and `corner` (2,): the share of the area is uniform in `scale`,
    the log of the aspect between 1:most and most:1. The first of 10 draws that fits is taken at a uniform place; if
    none does, the largest central box whose aspect is in range.
    """
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    aspects = jnp.exp(math.log(most) * (2.0 * aspect - 1.0))
    sizes = jnp.round(jnp.stack([jnp.sqrt(areas / aspects), jnp.sqrt(areas * aspects)])).astype(jnp.int32)
    whole = np.asarray([height, width], np.int32)
    fits = ((sizes > 0) & (sizes <= whole[:, None])).all(0)
    found = fits.any()
    size = jnp.where(found, sizes[:, jnp.argmax(fits)], np.asarray(_central_box(height, width, most), np.int32))
    room = whole - size
    place = jnp.minimum(jnp.floor(corner * (room + 1)).astype(jnp.int32), room)
    return jnp.concatenate([jnp.where(found, place, room // 2), size])


def _central_box(height: int, width: int, most: float) -> tuple[int, int]:
    """(height, width) of the largest box with an aspect between 1:most and most:1."""
    if width < height / most:
        return round(width * most), width
    if width > height * most:
        return height, round(height * most)
    return height, width


def largest_box(height: int, width: int, scale: tuple[float, float], most: float = ASPECT) -> tuple[int, int]:
    """(height, width) that no box of sample_box exceeds."""
    side = math.ceil(math.sqrt(scale[1] * height * width * most)) + 1
    if side > min(height, width):  # a draw may not fit, and after ten such draws comes the central box
        return height, width
    return side, side
