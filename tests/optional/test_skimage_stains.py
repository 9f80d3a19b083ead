"""Colour deconvolution and back equal scikit-image's; skipped without it (pip install scikit-image)."""

import numpy as np
import pytest

skimage = pytest.importorskip("skimage.color")

from histojax.ssl.stain import combine_stains, jitter_stains, separate_stains  # noqa: E402

RNG = np.random.default_rng(0)


def planar(picture):
    return np.moveaxis(picture, -1, 0).astype(np.float32)


def test_amounts_of_every_colour():
    """scikit-image cuts negative amounts to 0."""
    picture = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    ours = np.maximum(separate_stains(planar(picture)), 0)
    np.testing.assert_allclose(np.moveaxis(ours, 0, -1), skimage.rgb2hed(picture), atol=2e-6)


def test_colours_of_every_amount():
    stains = RNG.uniform(-0.05, 0.4, (64, 64, 3))
    ours = np.moveaxis(np.asarray(combine_stains(planar(stains))), 0, -1)
    np.testing.assert_allclose(ours, 255 * skimage.hed2rgb(stains), atol=5e-3)


def test_jitter_of_a_picture_of_stains():
    """Where no amount is negative, the whole operation is what its users do with scikit-image."""
    stains = RNG.uniform(0.02, 0.2, (64, 64, 3))
    picture = np.round(255 * skimage.hed2rgb(stains)).astype(np.uint8)
    scale, shift = np.float32([1.04, 0.96, 1.02]), np.float32([0.03, -0.01, 0.02])
    amounts = skimage.rgb2hed(picture)
    inside = (amounts > 0).all(-1)
    expected = 255 * skimage.hed2rgb(amounts * scale + shift)
    ours = np.moveaxis(np.asarray(jitter_stains(planar(picture), scale, shift)), 0, -1)
    assert inside.mean() > 0.9 and np.abs(ours - expected)[inside].max() < 0.51
