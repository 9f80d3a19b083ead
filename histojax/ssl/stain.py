"""Jitter of the stains of a crop: colour deconvolution, a random change of each stain, and back to 8-bit levels.

Light is absorbed by stain after stain, so optical densities add up (Ruifrok & Johnston 2001). Matrix and units are
those of scikit-image's rgb2hed and hed2rgb: an amount of 1 absorbs all light but a millionth. One thing differs:
scikit-image raises negative amounts to 0, and by this matrix the pink of eosin has negative amounts of haematoxylin,
so that its way there and back alone changes colours. Here they stay what they are (as in DIAGNijmegen's
pathology-he-auto-augment, of the group of Tellez et al.), and stains that do not change change no pixel.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl.color import round_levels

RGB_FROM_HED = np.asarray([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # haematoxylin, eosin, DAB
HED_FROM_RGB = np.linalg.inv(RGB_FROM_HED)
_DARKEST = 1e-6  # the share of light that counts as none
_UNIT = -math.log(_DARKEST)  # natural optical density of an amount of 1


def separate_stains(image: jax.Array) -> jax.Array:
    """(3, ...) amounts of haematoxylin, eosin and DAB, of grey levels 0..255 (3, ...); they may be negative."""
    light = jnp.maximum(image * (1.0 / 255.0), _DARKEST)
    return _mix(jnp.log(light), HED_FROM_RGB / -_UNIT)


def combine_stains(amounts: jax.Array) -> jax.Array:
    """(3, ...) grey levels 0..255, not rounded, of amounts of the three stains (3, ...)."""
    return jnp.minimum(255.0 * jnp.exp(_mix(amounts, RGB_FROM_HED * -_UNIT)), 255.0)


def jitter_stains(image: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """The image (3, H, W) with each stain's amount times its `scale` (3,), plus its `shift` (3,), rounded.

    Tellez et al. 2018 draw the scale from 1 +- s and the shift from +- s. Their group's code takes the logarithm of
    light + 2, where a shift changes light tissue a third as much: here 0.05 of eosin halves the green of a pixel.
    """
    amounts = separate_stains(image) * scale[:, None, None] + shift[:, None, None]
    return round_levels(combine_stains(amounts))


def _mix(planes: jax.Array, matrix: np.ndarray) -> jax.Array:
    """planes (3, ...) as rows times a matrix (3, 3): written out, since a product would be rounded on accelerators.

    Of plain numbers: a vmapped condition cannot take array constants inside shard_map.
    """
    first, second, third = planes
    return jnp.stack([first * float(a) + second * float(b) + third * float(c) for a, b, c in matrix.T])
