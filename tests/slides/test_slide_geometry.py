"""Dots painted on synthetic pyramids come back where they were painted, at every mpp."""

import numpy as np
import pytest
from pyramids import write_pyramid

from histojax.slides.slide import open_slide

SIZE = (1999, 1703)  # odd on purpose
STEP, SIGMA = 113.3, 7.0  # level-0 px
PYRAMIDS = {
    "one level": dict(downsamples=(1,)),
    "whole": dict(downsamples=(1, 2, 4, 8)),
    "dropped rest": dict(downsamples=(1, 4, 16)),
    "3.97": dict(downsamples=(1, 3.97), vendor="generic"),
    "4.03": dict(downsamples=(1, 4.03, 15.9)),
    "OpenSlide": dict(downsamples=(1, 4), compression="deflate"),
    "OpenSlide 4.03": dict(downsamples=(1, 2.013, 4.03), compression="deflate", vendor="generic"),
}


def dots() -> tuple[np.ndarray, np.ndarray]:
    """White image (h, w, 3) with dark dots, and their centres (n, 2) in level-0 px, whose pixel 0 spans 0..1."""
    width, height = SIZE
    ys, xs = np.arange(100.7, height - 40, STEP), np.arange(97.2, width - 40, STEP)
    row = np.exp(-(((np.arange(height) + 0.5)[:, None] - ys) ** 2) / (2 * SIGMA**2)).sum(1)
    column = np.exp(-(((np.arange(width) + 0.5)[:, None] - xs) ** 2) / (2 * SIGMA**2)).sum(1)
    image = np.repeat((255 - 200 * row[:, None] * column).round().astype(np.uint8)[..., None], 3, 2)
    return image, np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)


IMAGE, CENTRES = dots()


def centroid(tile: np.ndarray, near: np.ndarray, radius: float) -> np.ndarray:
    """Centre of darkness around a point, tile px, whose pixel 0 spans 0..1."""
    lo = np.maximum(np.floor(near - radius).astype(int), 0)
    hi = np.ceil(near + radius).astype(int)
    dark = np.clip(250.0 - tile[lo[1] : hi[1], lo[0] : hi[0], 0], 0, None)
    ys, xs = np.mgrid[lo[1] : lo[1] + dark.shape[0], lo[0] : lo[0] + dark.shape[1]] + 0.5
    return np.array([(xs * dark).sum(), (ys * dark).sum()]) / dark.sum()


@pytest.fixture(scope="module", params=PYRAMIDS, ids=PYRAMIDS)
def slide(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dots") / "dots.tif"
    with open_slide(write_pyramid(path, IMAGE, 0.25, tile=128, **PYRAMIDS[request.param])) as slide:
        yield slide


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 1.14, 2.0])
def test_dots_come_back_in_their_place(slide, mpp):
    scale, radius = mpp / 0.25, 4 * SIGMA
    tile_px = min(256, int(1500 // scale))
    worst = 0.0
    for x, y in [(0, 0), (133, 77), (SIZE[0] - 1 - int(tile_px * scale), SIZE[1] - 3 - int(tile_px * scale))]:
        tile = slide.tile(x, y, tile_px, mpp)
        assert tile.shape == (tile_px, tile_px, 3)
        expected = (CENTRES - (x, y)) / scale
        inside = (expected > radius / scale).all(1) & (expected < tile_px - radius / scale).all(1)
        for near in expected[inside]:
            worst = max(worst, np.abs(centroid(tile, near, radius / scale) - near).max())
        assert inside.any()
    assert worst < 0.12, worst  # tile px; a half is what is asked for


@pytest.mark.parametrize("mpp", [0.25, 1.0, 1.14, 4.0])
def test_dots_come_back_in_their_place_of_a_thumbnail(slide, mpp):
    thumbnail, scale = slide.thumbnail(mpp)
    assert abs(scale - mpp / 0.25) < 1e-9
    assert np.abs(np.array(thumbnail.shape[1::-1]) - np.array(SIZE) / scale).max() <= 0.5
    wrong = [np.abs(centroid(thumbnail, near, 4 * SIGMA / scale) - near).max() for near in CENTRES / scale]
    assert max(wrong) < 0.2  # a dot has 0.4 px there at 4.0 mpp
