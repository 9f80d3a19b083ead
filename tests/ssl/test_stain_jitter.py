"""Jitter of the stains against the formulas of scikit-image in float64, and what it must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.ssl.stain import HED_FROM_RGB, RGB_FROM_HED, combine_stains, jitter_stains, separate_stains

PICTURE = np.random.default_rng(0).integers(0, 256, (3, 40, 40)).astype(np.float32)
JITTER = jax.jit(jitter_stains)
ONE, NONE = np.ones(3, np.float32), np.zeros(3, np.float32)


def amounts(levels):
    """skimage.color.rgb2hed without its cut at 0, solved instead of multiplied by an inverse; (3, ...) float64."""
    share = np.maximum(np.asarray(levels, np.float64) / 255, 1e-6)
    density = (np.log(share) / np.log(1e-6)).reshape(3, -1)
    return np.linalg.solve(RGB_FROM_HED.T, density).reshape(np.shape(levels))


def levels(stains):
    """skimage.color.hed2rgb, times 255, float64."""
    density = np.einsum("s...,sc->c...", stains, RGB_FROM_HED) * np.log(1e-6)
    return 255 * np.clip(np.exp(density), 0, 1)


def test_the_matrix_is_ruifrok_and_johnston_s():
    """Its inverse as printed in other implementations (microsoft/hi-ml, MedARC-AI/nanopath)."""
    printed = [[1.87798274, -1.00767869, -0.55611582], [-0.06590806, 1.13473037, -0.1355218]]
    printed.append([-0.60190736, -0.48041419, 1.57358807])
    np.testing.assert_allclose(HED_FROM_RGB, printed, atol=1e-8)


def test_colours_of_known_stains():
    """An amount of 0.05 of one stain alone, worked out by hand: 255 * exp(-0.05 * 13.8155 * row of the matrix)."""
    alone = jnp.float32(np.eye(3) * 0.05)  # a column a pixel
    expected = [[162.75, 242.96, 211.62], [157.24, 128.69, 172.00], [208.71, 236.34, 148.78]]
    np.testing.assert_allclose(combine_stains(alone), expected, atol=0.01)
    np.testing.assert_allclose(separate_stains(jnp.float32(expected)), alone, atol=1e-5)


def test_both_ways_are_scikit_image_s_formulas():
    found = jax.jit(separate_stains)(PICTURE)
    np.testing.assert_allclose(found, amounts(PICTURE), atol=2e-6)
    np.testing.assert_allclose(jax.jit(combine_stains)(found), np.clip(PICTURE, 255e-6, 255), atol=2e-3)
    stains = np.random.default_rng(1).uniform(-0.1, 0.4, (3, 50))
    np.testing.assert_allclose(combine_stains(jnp.float32(stains)), levels(stains), atol=1e-2)


def test_stains_that_do_not_change_change_no_pixel():
    """Also pink and green, which have negative amounts of a stain."""
    assert (amounts(PICTURE).min((1, 2)) < -0.1).all()
    np.testing.assert_array_equal(JITTER(PICTURE, ONE, NONE), PICTURE)


@pytest.mark.parametrize(
    "scale, shift", [((1.05, 0.95, 1.0), (0, 0, 0)), ((1, 1, 1), (0.05, -0.05, 0.02)), ((0.8, 1.2, 0), (-0.2, 0, 0.2))]
)
def test_jitter_scales_and_shifts_each_stain(scale, shift):
    scale, shift = np.float32(scale), np.float32(shift)
    ours = np.asarray(JITTER(PICTURE, scale, shift))
    changed = amounts(PICTURE) * np.float64(scale)[:, None, None] + np.float64(shift)[:, None, None]
    assert (ours == np.round(ours)).all() and ours.min() >= 0 and ours.max() <= 255
    assert np.abs(ours - levels(changed)).max() < 0.51
    assert np.abs(ours - PICTURE).max() > 5


def test_many_images_at_once_equal_one_by_one():
    pictures = np.stack([PICTURE, 255 - PICTURE, np.zeros_like(PICTURE), np.full_like(PICTURE, 255)])
    draws = np.random.default_rng(2).uniform(-0.1, 0.1, (2, 4, 3)).astype(np.float32)
    many = jax.jit(jax.vmap(jitter_stains))(pictures, 1 + draws[0], draws[1])
    for i in range(4):
        np.testing.assert_array_equal(many[i], JITTER(pictures[i], 1 + draws[0, i], draws[1, i]))
    assert np.isfinite(many).all()
