"""Colour histograms as features: what a classifier reaches that sees no structure at all.

kNN on them is the baseline that any encoder has to beat: colour alone separates many tissue sets, and stain or
scanner differences that follow the labels show up as a high score here.
"""

from __future__ import annotations

import numpy as np


def colour_histogram(images: np.ndarray, bins: int = 8) -> np.ndarray:
    """(n, bins ** 3) float32 of uint8 images (n, H, W, 3): square roots of the joint RGB histogram's shares.

    Each channel is cut into `bins` equal parts. The roots have unit length and their Euclidean distance is the
    Hellinger distance, which does not let the large white bins decide alone. ValueError for other inputs.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:3]:
        raise ValueError(f"images {images.shape} {images.dtype} must be uint8 of shape (n, height, width, 3)")
    level = (np.arange(256) * bins // 256).astype(np.int32)
    weights = np.array([bins * bins, bins, 1], np.int32)
    features = np.empty((len(images), bins**3), np.float32)
    for row, image in zip(features, images):  # one at a time: the codes are four times the size of the image
        codes = level[image] @ weights
        row[:] = np.sqrt(np.bincount(codes.ravel(), minlength=bins**3) / codes.size)
    return features
