"""The whole of a slide as one image, read piece by piece and around what is damaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from histojax.slides.bad_slide import BadSlide
from histojax.slides.levels import Level, choose_level
from histojax.slides.resample import WHITE, Window, make_window

PIECE_PX = 1024  # level px along x and y
SMALLEST_PX = 64  # pieces that cannot be read are quartered down to this
MOST_FAILED = 256  # of one size; a slide with more of them is not searched any closer

Cut = Callable[[int, Sequence[Window]], Iterator[np.ndarray | BadSlide]]
Box = tuple[int, int, int, int]  # left, upper, right, lower, thumbnail px


def make_thumbnail(levels: Sequence[Level], scale: float, cut: Cut) -> tuple[np.ndarray, str]:
    """(h, w, 3) uint8 of the slide at `scale` level-0 px per px, and a note on what is missing in it ("" if nothing).

    `cut` gives the tile, or the error, of each window of a level. What cannot be read is white. Raises BadSlide if
    nothing can be read.
    """
    width, height = (max(1, math.ceil(side / scale - 0.5)) for side in (levels[0].width, levels[0].height))
    level = choose_level(levels, scale)
    level_px = scale / levels[level].downsample
    step = max(1, math.ceil(PIECE_PX / level_px))
    image = np.full((height, width, 3), WHITE, np.uint8)
    boxes, first, read = _split((0, 0, width, height), step), None, 0
    while True:
        windows = [_window(levels[level], box, scale) for box in boxes]
        failed = []
        for box, part in zip(boxes, cut(level, windows)):
            if isinstance(part, BadSlide):
                failed.append(box)
                first = first or part
            else:
                image[box[1] : box[3], box[0] : box[2]] = part
                read += 1
        step //= 2
        if not failed or len(failed) > MOST_FAILED or step * level_px < SMALLEST_PX or step < 1:
            break
        boxes = [quarter for box in failed for quarter in _split(box, step)]
    if first and not read:
        raise first
    return image, _note(failed, width * height, first) if first else ""


def _split(box: Box, step: int) -> list[Box]:
    """The box in pieces of at most `step` px, row by row."""
    left, upper, right, lower = box
    rows, columns = range(upper, lower, step), range(left, right, step)
    return [(x, y, min(x + step, right), min(y + step, lower)) for y in rows for x in columns]


def _window(level: Level, box: Box, scale: float) -> Window:
    left, upper, right, lower = box
    return make_window(level, left * scale, upper * scale, (right - left, lower - upper), scale)


def _note(failed: Sequence[Box], area: int, first: BadSlide) -> str:
    lost = sum((right - left) * (lower - upper) for left, upper, right, lower in failed) / area
    return f"{lost:.1%} of its thumbnail is white, as it cannot be read: {first.reason}"
