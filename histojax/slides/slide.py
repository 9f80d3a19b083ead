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

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histojax.slides.bad_slide import BadSlide
from histojax.slides.direct_reader import Band, DirectReader
from histojax.slides.levels import FINE_ENOUGH, Level, choose_level, make_levels, same_picture
from histojax.slides.mpp import find_mpp
from histojax.slides.open_file import open_file
from histojax.slides.openslide_file import OpenslideFile
from histojax.slides.resample import Window, make_window, reduce_blocks, resample
from histojax.slides.thumbnail import make_thumbnail

__all__ = ["BadSlide", "Level", "Slide", "open_slide", "slide_name"]


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
        self._direct: DirectReader | None = None
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
        for i, level in enumerate(self.levels):
            if not same_picture(self.levels[0], level):
                size = f"{level.width}x{level.height} px"
                self.notes += (f"its level {i} of {size} has other proportions than level 0 and is not used",)
        if isinstance(self._file, OpenslideFile):
            self._direct = DirectReader(self._file)

    @property
    def properties(self) -> dict[str, str]:
        """The metadata, named as OpenSlide names them; empty for plain images."""
        return dict(self._file.properties)

    @property
    def decoder(self) -> str:
        """What decodes the pixels, and why: the tiles of the level directly, if found equal to OpenSlide's, or it."""
        return self._direct.describe() if self._direct else f"{self.vendor}, decoded as a whole"

    def tile(self, x: int, y: int, tile_px: int, mpp: float) -> np.ndarray:
        """(tile_px, tile_px, 3) uint8: the square whose upper left corner is (x, y), level-0 px, at `mpp`.

        White where it leaves the slide or the slide is transparent. Raises BadSlide if a part cannot be read.
        """
        level, scale = self._level(mpp)
        window = make_window(self.levels[level], x, y, (tile_px, tile_px), scale)
        return self._cut(level, window, self._band(level, None))

    def tiles(self, coords: Any, tile_px: int, mpp: float) -> Iterator[np.ndarray | BadSlide]:
        """The tiles at `coords` (n, 2), in their order; fastest row by row. A tile that cannot be read is its BadSlide.

        Raises BadSlide at once if `mpp` is finer than the slide.
        """
        level, scale = self._level(mpp)
        places, size = np.asarray(coords).reshape(-1, 2).tolist(), (tile_px, tile_px)
        return self._cuts(level, lambda: (make_window(self.levels[level], x, y, size, scale) for x, y in places))

    def check_mpp(self, mpp: float) -> None:
        """Raises BadSlide if `mpp` is finer than the slide."""
        self._level(mpp)

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        """(h, w, 3) uint8 of the whole slide at `mpp`, or at the slide's own where that is coarser.

        And its exact level-0 px per thumbnail px. What cannot be read is white, and said in `notes`. Raises BadSlide if
        nothing can be read.
        """
        scale = max(1.0, mpp / self.mpp)
        image, note = make_thumbnail(self.levels, scale, lambda level, windows: self._cuts(level, lambda: windows))
        self.notes += (note,) * (note not in ("", *self.notes))
        return image, scale

    def _level(self, mpp: float) -> tuple[int, float]:
        """The level that serves `mpp`, and level-0 px per px at that resolution. Raises BadSlide if it is too fine."""
        scale = mpp / self.mpp
        if not scale * FINE_ENOUGH >= 1:  # NaN is caught as well
            advice = f"ask for {self.mpp:g} or more: enlarged tiles would show nothing more"
            raise BadSlide(self.path, f"has {self.mpp:g} mpp, which is coarser than the {mpp:g} asked for; {advice}")
        return choose_level(self.levels, scale), scale

    def _cuts(self, level: int, windows: Callable[[], Iterable[Window]]) -> Iterator[np.ndarray | BadSlide]:
        """The tile of each window, or its error; `windows` is called twice: there may be a million of them."""
        band = self._band(level, windows)
        for window in windows():
            try:
                yield self._cut(level, window, band)
            except BadSlide as error:
                yield error

    def _band(self, level: int, windows: Callable[[], Iterable[Window]] | None) -> Band | None:
        """What decodes the tiles of a level once for all windows, or for a single one; None for other levels."""
        if not self._direct or not self._direct.takes(level):
            return None
        return Band(self._direct, level, windows() if windows else None)

    def _cut(self, level: int, window: Window, band: Band | None) -> np.ndarray:
        if not window.width or not window.height:
            return resample(np.empty((0, 0, 3), np.uint8), window)
        if band:
            return resample(band.read(window), window)
        pixels, x, y = self._file.read(level, window.x, window.y, window.width, window.height)
        return resample(reduce_blocks(pixels, window.block), window, x, y)

    def associated(self) -> dict[str, tuple[int, int]]:
        """Names and (width, height) of thumbnail, label, macro; labels may show a patient's name."""
        return self._file.associated()

    def associated_image(self, name: str) -> np.ndarray:
        """(h, w, 3) uint8 of one of them. Raises BadSlide."""
        return self._file.associated_image(name)

    def close(self) -> None:
        """Closes the file."""
        if self._direct:
            self._direct.close()
        self._file.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return open_slide, (self.path, self._given)
