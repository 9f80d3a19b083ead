"""One slide, whatever its format: tiles and thumbnails at an exact resolution.

    with open_slide("a.svs") as slide:
        for tile in slide.tiles(coords, tile_px=256, mpp=1.0):
            ...

Coordinates are (x, y) = (column, row) in level-0 px. A tile of 256 px at 1.0 mpp shows 256 x 256 micrometres: its side
on level 0 is 256 * 1.0 / slide.mpp px, rarely a whole number. `resample` tells how it is made. Asking for a resolution
finer than the slide's by more than 2 % is an error: enlarged pixels show nothing more, and look to a network as what
they are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histojax.slides.bad_slide import BadSlide
from histojax.slides.levels import FINE_ENOUGH, Level, choose_level, make_levels
from histojax.slides.mpp import find_mpp
from histojax.slides.open_file import open_file
from histojax.slides.resample import WHITE, Window, make_window, resample

__all__ = ["BadSlide", "Level", "Slide", "open_slide", "slide_name"]

THUMBNAIL_BLOCK_PX = 1024  # level px that a thumbnail takes at once along x and y


def open_slide(path: str | Path, mpp: float | str | None = None) -> Slide:
    """The slide at `path`: a file that OpenSlide reads, a folder of DICOM files, or a plain image (PNG, JPEG, TIFF).

    `mpp` are micrometres per pixel of level 0, needed where the metadata do not say; if given it wins over them, and
    `notes` tells if they disagree. Raises BadSlide if the file is none of these, is damaged, or has no known mpp.
    """
    return Slide(path, mpp)


def slide_name(path: str | Path) -> str:
    """The name of a slide: its file's without the last suffix; of a folder of DICOM files the folder's."""
    path = Path(path)
    return path.name if path.is_dir() else path.stem


class Slide:
    """One opened slide, for one process and one thread: OpenSlide's handles must not cross a fork.

    Pickling it takes only its path and the given mpp; it is opened anew where it is unpickled.
    """

    def __init__(self, path: str | Path, mpp: float | str | None = None) -> None:
        """Opens the slide; see open_slide."""
        self.path, self._given = Path(path), mpp
        self.name = slide_name(path)
        self._file = open_file(self.path)
        try:
            found = find_mpp(str(path), self._file.properties, mpp)
        except BadSlide:
            self.close()
            raise
        self.mpp, self.mpp_from, self.notes = found
        self.vendor = self._file.vendor
        self.levels = make_levels(self._file.sizes)
        self.size = (self.levels[0].width, self.levels[0].height)

    @property
    def properties(self) -> dict[str, str]:
        """The metadata, named as OpenSlide names them; empty for plain images."""
        return dict(self._file.properties)

    def tile(self, x: int, y: int, tile_px: int, mpp: float) -> np.ndarray:
        """(tile_px, tile_px, 3) uint8: the square whose upper left corner is (x, y), level-0 px, at `mpp`.

        White where it leaves the slide or the slide is transparent. Raises BadSlide if a part cannot be read.
        """
        level, scale = self._level(mpp)
        return self._cut(level, make_window(self.levels[level], x, y, (tile_px, tile_px), scale))

    def tiles(self, coords: Any, tile_px: int, mpp: float) -> Iterator[np.ndarray | BadSlide]:
        """The tiles at `coords` (n, 2), in their order; fastest row by row. A tile that cannot be read is its BadSlide.

        Raises BadSlide at once if `mpp` is finer than the slide.
        """
        level, scale = self._level(mpp)
        return self._tiles(np.asarray(coords).reshape(-1, 2), (tile_px, tile_px), level, scale)

    def _tiles(self, coords: np.ndarray, size: tuple[int, int], level: int, scale: float) -> Iterator:
        for x, y in coords.tolist():
            try:
                yield self._cut(level, make_window(self.levels[level], x, y, size, scale))
            except BadSlide as error:
                yield error

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        """(h, w, 3) uint8 of the whole slide at `mpp`, or at the slide's own where that is coarser.

        And its exact level-0 px per thumbnail px. Parts that cannot be read are white and counted in `notes`. Raises
        BadSlide if nothing can be read.
        """
        scale = max(1.0, mpp / self.mpp)
        width, height = (max(1, math.ceil(side / scale - 0.5)) for side in self.size)
        level = choose_level(self.levels, scale)
        step = max(32, math.ceil(THUMBNAIL_BLOCK_PX * self.levels[level].downsample / scale))
        image = np.full((height, width, 3), WHITE, np.uint8)
        failed, blocks = [], 0
        for row in range(0, height, step):
            for column in range(0, width, step):
                size, blocks = (min(step, width - column), min(step, height - row)), blocks + 1
                window = make_window(self.levels[level], column * scale, row * scale, size, scale)
                try:
                    image[row : row + size[1], column : column + size[0]] = self._cut(level, window)
                except BadSlide as error:
                    failed.append(error)
        if len(failed) == blocks:
            raise failed[0]
        if failed:
            self.notes += (f"{len(failed)} of {blocks} parts of its thumbnail are white: {failed[0].reason}",)
        return image, scale

    def _level(self, mpp: float) -> tuple[int, float]:
        """The level that serves `mpp`, and level-0 px per px at that resolution. Raises BadSlide if it is too fine."""
        scale = mpp / self.mpp
        if not scale * FINE_ENOUGH >= 1:  # NaN is caught as well
            advice = f"ask for {self.mpp:g} or more: enlarged tiles would show nothing more"
            raise BadSlide(self.path, f"has {self.mpp:g} mpp, which is coarser than the {mpp:g} asked for; {advice}")
        return choose_level(self.levels, scale), scale

    def _cut(self, level: int, window: Window) -> np.ndarray:
        if not window.width or not window.height:
            return resample(np.empty((0, 0, 3), np.uint8), window)
        pixels, x, y = self._file.read(level, window.x, window.y, window.width, window.height)
        return resample(pixels, window, x, y)

    def associated(self) -> dict[str, tuple[int, int]]:
        """Names and (width, height) of thumbnail, label, macro; labels may show a patient's name."""
        return self._file.associated()

    def associated_image(self, name: str) -> np.ndarray:
        """(h, w, 3) uint8 of one of them. Raises BadSlide."""
        return self._file.associated_image(name)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return open_slide, (self.path, self._given)
