"""Every pixel operation against arrays recorded from Pillow and torchvision, and against Pillow itself."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from parity_cases.pixel_operations import OPERATIONS, on_pixels
from PIL import Image, ImageEnhance

from histojax.ssl import color
from histojax.ssl.resize import crop_resize, resize

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dinov2" / "augment_ops.npz")
NAMES = [n for n in GOLDEN.files if n.partition("/")[0] in OPERATIONS]


CROP = jax.jit(crop_resize, static_argnums=(2, 3))
JITTER = jax.jit(color.color_jitter)


def planar(picture):
    return jnp.asarray(picture.transpose(2, 0, 1), jnp.float32)


def assert_levels(ours, expected, share=0.001):
    """At most one grey level apart, and that only in a small share of the values."""
    gap = np.abs(np.asarray(ours, np.float64) - expected)
    assert gap.max() <= 1
    assert np.mean(gap) <= share


@pytest.mark.parametrize("name", NAMES)
def test_operation_matches_recorded_array(name):
    kind, _, parameter = name.partition("/")
    ours = on_pixels(OPERATIONS[kind], *([float(parameter)] if parameter else []))(GOLDEN["image"])
    assert ours.dtype == np.uint8
    assert_levels(ours, GOLDEN[name])


def test_all_kinds_are_recorded():
    assert {n.partition("/")[0] for n in NAMES} == set(OPERATIONS)


@pytest.mark.parametrize("i", range(4))
def test_crop_matches_recorded_array(i):
    *box, size = (int(v) for v in GOLDEN[f"crop{i}/box_top_left_h_w_size"])
    ours = CROP(planar(GOLDEN["image"]), jnp.asarray(box), size)
    assert_levels(ours.transpose(1, 2, 0), GOLDEN[f"crop{i}/out"])


def test_crop_flips_and_window_limit():
    image = planar(np.random.default_rng(0).integers(0, 256, (60, 52, 3), np.uint8))
    box = jnp.asarray([31, 20, 21, 30])
    plain = np.asarray(CROP(image, box, 24))
    vertical, both = (CROP(image, box, 24, None, f) for f in ((True, False), (True, True)))
    np.testing.assert_array_equal(vertical, plain[:, ::-1])
    np.testing.assert_array_equal(both, plain[:, ::-1, ::-1])
    np.testing.assert_array_equal(CROP(image, box, 24, (22, 33)), plain)


@pytest.mark.parametrize("box", [(0, 0, 120, 97), (1, 2, 100, 50), (5, 0, 60, 97), (7, 9, 113, 40)])
def test_noise_crops_match_pillow(box):
    """White noise is the hardest picture: overshoot is cut at 0 and 255 after each pass, so their order shows."""
    picture = np.random.default_rng(1).integers(0, 256, (120, 97, 3), np.uint8)
    top, left, height, width = box
    crop = Image.fromarray(picture).crop((left, top, left + width, top + height))
    vertical_first = height > 48 and height - 48 > 2 * (width - 48)
    expected = crop.resize((48, 48), Image.Resampling.BICUBIC)
    if vertical_first and int(PIL.__version__.split(".")[0]) < 13:  # there the order is fixed
        expected = crop.resize((width, 48), Image.Resampling.BICUBIC).resize((48, 48), Image.Resampling.BICUBIC)
    ours = CROP(planar(picture), jnp.asarray(box), 48)
    assert_levels(ours.transpose(1, 2, 0), np.asarray(expected), 0.003)


@pytest.mark.parametrize("size", [98, 64, 200])
def test_resize_matches_pillow(size):
    picture = np.random.default_rng(2).integers(0, 256, (2, 130, 130, 3), np.uint8)
    expected = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in picture]
    assert_levels(jax.jit(resize, static_argnums=1)(picture, size), np.stack(expected), 0.003)


def test_resize_keeps_images_of_the_size():
    picture = np.random.default_rng(2).integers(0, 256, (1, 28, 28, 3), np.uint8)
    same = resize(jnp.asarray(picture), 28)
    assert same.dtype == jnp.float32
    np.testing.assert_array_equal(same, picture)


def test_hsv_matches_pillow_for_every_hue_and_saturation():
    levels = np.arange(256, dtype=np.uint8)
    for red in (0, 1, 85, 128, 254, 255):
        rgb = np.stack(np.meshgrid(np.uint8(red), levels, levels, indexing="ij"), -1)[0]
        h, s, v = jax.jit(color.rgb_to_hsv)(planar(rgb))
        np.testing.assert_array_equal(np.stack([h, s, v], -1), np.asarray(Image.fromarray(rgb).convert("HSV")))
        back = np.asarray(Image.frombytes("HSV", (256, 256), rgb.tobytes()).convert("RGB"))
        assert_levels(jax.jit(color.hsv_to_rgb)(*planar(rgb)).transpose(1, 2, 0), back, 1e-5)


@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_black_and_white_stay_in_range(kind):
    for level in (0, 255):
        flat = np.full((3, 12, 12), level, np.float32)
        parameter = () if kind in ("grayscale3", "solarize128") else (1.4,)
        out = np.asarray(jax.jit(OPERATIONS[kind])(flat, *parameter))
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 255
        assert (out == np.round(out)).all()


def pillow_jitter(picture, order, factors):
    """What torchvision's ColorJitter does to a PIL image, operation by operation."""
    image = Image.fromarray(picture)
    for i in order:
        if i < 3:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[i]
            image = kind(image).enhance(factors[i])
        else:
            h, s, v = image.convert("HSV").split()
            turned = np.asarray(h) + np.array(int(factors[3] * 255)).astype(np.uint8)
            image = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), s, v)).convert("RGB")
    return np.asarray(image)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_four_jitters_in_each_order_match_pillow(order):
    factors = (1.3, 0.7, 1.15, -0.06)
    ours = JITTER(planar(GOLDEN["image"]), jnp.int32(order), jnp.float32(factors))
    gap = np.abs(np.asarray(ours).transpose(1, 2, 0) - pillow_jitter(GOLDEN["image"], order, factors))
    assert gap.max() <= 2 and gap.mean() < 0.02


def test_color_jitter_applies_the_four_in_the_given_order():
    image = planar(GOLDEN["image"])[:, :20, :20]
    factors = jnp.float32([1.4, 0.6, 1.2, 0.07])
    order = [3, 1, 0, 2]
    expected = image
    for i in order:
        expected = jax.jit(color.JITTERS[i])(expected, factors[i])
    assert_levels(JITTER(image, jnp.int32(order), factors), np.asarray(expected))
    other = np.asarray(JITTER(image, jnp.int32([0, 1, 2, 3]), factors))
    assert np.abs(other - np.asarray(expected)).max() > 1  # the order matters here, so the test can see it
