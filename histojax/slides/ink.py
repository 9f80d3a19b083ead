"""Pixels in colours that no H&E stain has: ink of green, blue, red and black markers, black borders of a scan.

The rules are differences of RGB channels. Haematoxylin and eosin both absorb green most, so that green never exceeds
red by much, and blue exceeds red only a little. Red ink is redder than blood; pale red ink cannot be told from it.
Made for H&E: in immunohistochemistry a blue counterstain can be as blue as ink.
"""

from __future__ import annotations

import cv2
import numpy as np

BLACK_BELOW = 50  # the brightest channel
BLACK_TINT = 20  # and the channels are not farther apart: dark nuclei are blue or purple


def black(image: np.ndarray) -> np.ndarray:
    """(h, w) bool of (h, w, 3) uint8: black without a colour, as ink and as the border of a scan."""
    red, green, blue = cv2.split(image)
    high = cv2.max(cv2.max(red, green), blue)
    low = cv2.min(cv2.min(red, green), blue)
    return (high < BLACK_BELOW) & (high - low < BLACK_TINT)


def ink(image: np.ndarray) -> np.ndarray:
    """(h, w) bool of (h, w, 3) uint8: green, blue and red markers."""
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(image))
    greenish = green > red + 20
    bluish = (blue > red + 100) | ((blue > red + 50) & (green > red))
    reddish = (red > 180) & (red > 3 * green) & (2 * red > 5 * blue)
    return greenish | bluish | reddish
