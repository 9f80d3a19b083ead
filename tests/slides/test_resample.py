import numpy as np
import pytest
from PIL import Image
from pyramids import picture

from histojax.slides.levels import Level
from histojax.slides.resample import lanczos, make_window, reduce_blocks, resample

IMAGE = picture(300, 260)
LEVEL = Level(300, 260, 1.0, (1.0, 1.0))


def cut(x, y, size, scale, level=LEVEL):
    window = make_window(level, x, y, size, scale)
    part = IMAGE[window.y : window.y + window.height, window.x : window.x + window.width]
    return resample(reduce_blocks(part, window.block), window)


@pytest.mark.parametrize("box", [(3.1, 2.7, 130.6, 99.9), (0, 0, 300, 260), (10.5, 20.25, 74.5, 84.25)])
def test_lanczos_equals_pillows(box):
    ours = lanczos(IMAGE, box, (64, 48))
    pillows = np.asarray(Image.fromarray(IMAGE).resize((64, 48), Image.Resampling.LANCZOS, box))
    difference = np.abs(ours.astype(int) - pillows)
    assert difference.max() <= 4 and difference.mean() < 0.3  # Pillow rounds, and cuts off, between its two passes


@pytest.mark.parametrize("scale", [1.0, 1.14, 1.5, 1.98, 2.004, 3.3, 7.2])
def test_a_part_is_that_of_the_whole(scale):
    size = int(300 / scale), int(260 / scale)
    whole = cut(0, 0, size, scale)
    column, row = 5, 7
    part = cut(column * scale, row * scale, (20, 20), scale)
    assert np.abs(part.astype(int) - whole[row : row + 20, column : column + 20]).max() <= 1


def test_whole_blocks_are_means():
    expected = IMAGE[8:88, 4:124].reshape(20, 4, 30, 4, 3).mean((1, 3))
    assert np.abs(cut(4, 8, (30, 20), 4.0) - expected).max() <= 0.5


def test_fine_patterns_do_not_alias():
    """Stripes finer than the tile's pixels come out grey, whatever the scale."""
    global IMAGE
    before, stripes = IMAGE, np.zeros((260, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    IMAGE = stripes
    try:
        for scale in (1.5, 2.0, 2.3, 3.0, 3.5, 4.9):
            tile = cut(12.3, 11.1, (40, 40), scale).astype(int)
            assert np.abs(tile - 127.5).max() < 45, scale
    finally:
        IMAGE = before


def test_a_tile_at_the_edge_mixes_nothing_from_outside():
    dark = np.full((260, 300, 3), 40, np.uint8)
    for scale in (1.0, 1.3, 2.0, 2.6):
        window = make_window(LEVEL, 300 - 32 * scale, 260 - 32 * scale, (32, 32), scale)
        part = dark[window.y : window.y + window.height, window.x : window.x + window.width]
        assert (resample(reduce_blocks(part, window.block), window) == 40).all()


def test_the_last_block_of_an_odd_level_repeats_its_edge():
    odd = IMAGE[:7, :5]
    assert reduce_blocks(odd, 4).shape == (2, 2, 3)
    assert np.abs(reduce_blocks(odd, 4)[1, 1].astype(int) - odd[[4, 5, 6, 6], 4].mean(0)).max() <= 1


def test_a_window_of_nothing_is_white():
    assert (cut(1000, 0, (8, 8), 2.0) == 255).all()
