"""Thumbnails with painted tissue, and a stand-in for an opened slide that has one."""

import cv2
import numpy as np

GLASS, EOSIN, BLUE = (243, 242, 244), (222, 150, 190), (110, 70, 150)


def glass(height=400, width=500, colour=GLASS, noise=1.5, seed=0):
    """Glass as a scanner sees it."""
    generator = np.random.default_rng(seed)
    return np.clip(np.array(colour) + generator.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)


def stained(height=400, width=500, seed=0):
    """Tissue without a gap: eosin with nuclei, uneven."""
    generator = np.random.default_rng(seed)
    dots = cv2.GaussianBlur(generator.random((height, width)).astype(np.float32), (0, 0), 1.5)
    share = np.clip((dots - dots.mean()) / dots.std() * 0.25 + 0.3, 0, 1)[..., None]
    picture = np.array(EOSIN) * (1 - share) + np.array(BLUE) * share
    return np.clip(picture + generator.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def disc(height, width, centre, radius):
    y, x = np.mgrid[:height, :width]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


class Painted:
    """A slide whose thumbnail is this picture."""

    name = "painted"

    def __init__(self, picture, mpp=0.5, mask_mpp=8.0):
        self.picture, self.mpp, self.scale = picture, mpp, mask_mpp / mpp
        self.size = (int(picture.shape[1] * self.scale), int(picture.shape[0] * self.scale))

    def thumbnail(self, mpp):
        assert abs(mpp - self.scale * self.mpp) < 1e-9
        return self.picture, self.scale
