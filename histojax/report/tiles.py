"""Grids of tile images with words below each: mistakes, neighbours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from histojax.report.drawing import GREEN, INK, RED, font

SIDE, SHARP = 112, 2  # of a tile, CSS pixels; pixels of the file per CSS pixel
FRAME, GAP, LINE, SIZE = 4, 12, 16, 12  # CSS pixels
NONE = (225, 229, 233)


@dataclass(frozen=True)
class Tile:
    """A cell of a grid.

    Args:
        image: (h, w, 3) uint8, None where it cannot be shown.
        words: lines below it.
        right: True a green frame, False a red one, None none.
    """

    image: np.ndarray | None
    words: tuple[str, ...] = ()
    right: bool | None = None


@dataclass(frozen=True)
class Grid:
    """A picture: the bytes of a JPEG and its width in CSS pixels."""

    jpeg: bytes
    width: int


def tile_grid(cells: Sequence[Sequence[Tile | None]], first_apart: bool = False) -> Grid:
    """Rows of tiles; None leaves a place free, `first_apart` sets the first column off from the others."""
    columns = max(len(row) for row in cells)
    lines = max((len(tile.words) for row in cells for tile in row if tile), default=0)
    wide, high = SIDE + 2 * FRAME + GAP, SIDE + 2 * FRAME + lines * LINE + GAP
    apart = GAP * 2 * first_apart
    size = (columns * wide + apart, len(cells) * high)
    page = Image.new("RGB", (size[0] * SHARP, size[1] * SHARP), "white")
    for i, row in enumerate(cells):
        for j, tile in enumerate(row):
            if tile is not None:
                _put(page, tile, (j * wide + apart * (j > 0)) * SHARP, i * high * SHARP)
    file = io.BytesIO()
    page.save(file, "JPEG", quality=85)
    return Grid(file.getvalue(), size[0])


def _put(page: Image.Image, tile: Tile, x: int, y: int) -> None:
    draw = ImageDraw.Draw(page)
    frame, side = FRAME * SHARP, SIDE * SHARP
    if tile.right is not None:
        draw.rectangle((x, y, x + side + 2 * frame - 1, y + side + 2 * frame - 1), GREEN if tile.right else RED)
    place = (x + frame, y + frame)
    if tile.image is None:
        draw.rectangle((*place, place[0] + side - 1, place[1] + side - 1), NONE)
        draw.text((place[0] + 16, place[1] + side // 2), "no image", INK, font(SIZE * SHARP))
    else:
        page.paste(Image.fromarray(_square(tile.image, side)), place)
    for i, words in enumerate(tile.words):
        top = y + side + 2 * frame + i * LINE * SHARP
        draw.text((x + 2, top), _fitted(draw, words, side + 2 * frame), INK, font(SIZE * SHARP))


def _square(image: np.ndarray, side: int) -> np.ndarray:
    """The image within a white square, its proportions kept."""
    image = np.ascontiguousarray(image[..., :3])
    factor = side / max(image.shape[:2])
    size = tuple(max(1, round(n * factor)) for n in image.shape[1::-1])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=method)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = resized
    return square


def _fitted(draw: ImageDraw.ImageDraw, words: str, width: int) -> str:
    letters = font(SIZE * SHARP)
    if draw.textlength(words, letters) <= width:
        return words
    while words and draw.textlength(words + "...", letters) > width:
        words = words[:-1]
    return words + "..."
