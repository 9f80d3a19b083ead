"""Windows of a level put together from its tiles, each decoded once while neighbours still need it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from histojax.common.files import reason
from histojax.slides.bad_slide import BadSlide
from histojax.slides.jpeg_tiles import Damaged, TiledLevel, Unreadable, find_levels
from histojax.slides.openslide_file import OpenslideFile
from histojax.slides.resample import Window, reduce_blocks

CACHE_BYTES = 128 << 20  # decoded tiles that are kept for later windows, per band
PROBES, CANDIDATES, ENOUGH_PX = 3, 64, 16  # tiles of a level, and px of each, that are compared before it is trusted
ON_PIXEL = 1 / 1024  # px: so close to a whole position OpenSlide does not interpolate

MOST_TRUSTED = 10_000
_TRUSTED: dict[tuple, bool] = {}  # what was compared in this process: slides are opened again and again


class DirectReader:
    """The levels of one file that are decoded directly; everything else is OpenSlide's."""

    def __init__(self, file: OpenslideFile) -> None:
        """Finds the levels with such tiles; a level is compared with OpenSlide when it is first read."""
        self.file, self._handle = file, -1
        self.levels, self.reason = find_levels(Path(file.path), file.vendor, file.sizes)
        facts = os.stat(file.path)
        self._version = str(file.path), facts.st_size, facts.st_mtime_ns, facts.st_ino

    def takes(self, level: int) -> bool:
        """Whether the tiles of a level are decoded directly; a level whose pixels differ from OpenSlide's is not."""
        if level not in self.levels:
            return False
        key = (*self._version, level)
        if key not in _TRUSTED:
            if len(_TRUSTED) >= MOST_TRUSTED:
                _TRUSTED.clear()
            _TRUSTED[key] = self._equals_openslide(level)
        if not _TRUSTED[key]:
            self.reason = f"the tiles of level {level} do not decode to OpenSlide's pixels"
        return _TRUSTED[key]

    def describe(self) -> str:
        """Which levels are decoded how, and why not all directly."""
        direct = [level for level in range(len(self.file.sizes)) if self.takes(level)]
        if not direct:
            return f"OpenSlide ({self.reason})"
        said = f"{' and '.join(sorted({self.levels[level].codec for level in direct}))} tiles decoded directly"
        if len(direct) == len(self.file.sizes):
            return said
        return f"{said} at level {', '.join(map(str, direct))}; else OpenSlide ({self.reason})"

    def tile(self, level: int, row: int, column: int) -> np.ndarray:
        """(h, w, 3) uint8 of one tile; what is missing or looks damaged is asked of OpenSlide. Raises BadSlide."""
        tiled = self.levels[level]
        x, y, width, height = tiled.place(row, column)
        try:
            return tiled.decode(self._open(), row, column)
        except Unreadable as error:
            where = f"the {tiled.codec} tile of {width}x{height} px at ({x}, {y}) of level {level}"
            raise BadSlide(self.file.shown, f"{where} cannot be read: {error}") from error
        except Damaged as error:
            try:
                return self.file.read(level, x, y, width, height)[0]
            except BadSlide as worse:
                raise BadSlide(worse.path, f"{worse.reason}; its {tiled.codec} tile: {error}") from error

    def _open(self) -> int:
        if self._handle < 0:
            try:
                self._handle = os.open(self.file.path, os.O_RDONLY)
            except OSError as error:
                raise Unreadable(reason(error)) from error
        return self._handle

    def _equals_openslide(self, level: int) -> bool:
        """Whether the first tile and the fullest ones decode to what OpenSlide reads; damaged ones do not count."""
        tiled, compared = self.levels[level], 0
        fullest = np.argsort(-tiled.counts, axis=None, kind="stable")[:CANDIDATES]
        for place in (0, *fullest.tolist()):
            row, column = divmod(int(place), tiled.counts.shape[1])
            try:
                equal = self._equals_at(level, row, column)
            except (Damaged, Unreadable, BadSlide):
                continue
            if equal is False:
                return False
            compared += equal is True
            if compared == PROBES:
                break
        return compared > 0

    def _equals_at(self, level: int, row: int, column: int) -> bool | None:
        """Whether a tile decodes to what OpenSlide reads; None if OpenSlide hits no whole pixel in it."""
        tiled = self.levels[level]
        x, y, width, height = tiled.place(row, column)
        left, upper = self._first_hit(level, x, width), self._first_hit(level, y, height)
        if left is None or upper is None:
            return None
        theirs, _, _ = self.file.read(level, x + left, y + upper, width - left, height - upper)
        return np.array_equal(tiled.decode(self._open(), row, column)[upper:, left:], theirs)

    def _first_hit(self, level: int, start: int, length: int) -> int | None:
        """The first of `length` level px, from `start` on, that OpenSlide reads without interpolating."""
        for offset in range(max(1, length - ENOUGH_PX)):
            if abs(self.file.position(level, start + offset) - (start + offset)) < ON_PIXEL:
                return offset
        return None

    def close(self) -> None:
        """Closes the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Band:
    """The decoded tiles that windows of one level share, for windows with the same block."""

    def __init__(self, reader: DirectReader, level: int, windows: Iterable[Window] | None) -> None:
        """Counts how often `windows`, all that will be read, need each tile: after its last use it is let go.

        Without windows, only one is going to be read.
        """
        self.reader, self.level = reader, level
        self.tiled: TiledLevel = reader.levels[level]
        self._uses = None if windows is None else np.zeros(self.tiled.counts.shape, np.uint32)
        for window in windows or ():
            rows, columns = self._range(window)
            self._uses[rows.start : rows.stop, columns.start : columns.stop] += 1  # type: ignore[index]
        self._kept: dict[tuple[int, int], np.ndarray | BadSlide] = {}
        self._bytes = 0

    def read(self, window: Window) -> np.ndarray:
        """(h, w, 3) uint8: the window in blocks of its own. Raises BadSlide if a tile that it touches is damaged."""
        rows, columns = self._range(window)
        early = self._reduces_early(window.block)
        block = window.block if early else 1
        x0, y0 = window.x // block, window.y // block
        shape = -(-(window.y + window.height) // block) - y0, -(-(window.x + window.width) // block) - x0
        pixels, bad = np.empty((*shape, 3), np.uint8), None
        for row in rows:
            for column in columns:
                tile = self._tile(row, column, block)
                if isinstance(tile, BadSlide):
                    bad = bad or tile
                    continue
                y, x = row * self.tiled.tile_height // block - y0, column * self.tiled.tile_width // block - x0
                _paste(pixels, tile, y, x)
        if bad:
            raise BadSlide(bad.path, bad.reason)
        return pixels if early else reduce_blocks(pixels, window.block)

    def _reduces_early(self, block: int) -> bool:
        """Whether blocks never cross tiles, so that each tile can be kept in its reduced form."""
        return self.tiled.tile_width % block == 0 and self.tiled.tile_height % block == 0

    def _range(self, window: Window) -> tuple[range, range]:
        """Rows and columns of the tiles that a window touches."""
        if not window.width or not window.height:
            return range(0), range(0)
        width, height = self.tiled.tile_width, self.tiled.tile_height
        rows = range(window.y // height, (window.y + window.height - 1) // height + 1)
        return rows, range(window.x // width, (window.x + window.width - 1) // width + 1)

    def _tile(self, row: int, column: int, block: int) -> np.ndarray | BadSlide:
        key = row, column
        tile = self._kept.get(key)
        if tile is None:
            try:
                tile = reduce_blocks(self.reader.tile(self.level, row, column), block)
            except BadSlide as error:
                tile = error
            self._keep(key, tile)
        if self._uses is not None:
            self._uses[key] -= 1
            if not self._uses[key]:
                self._bytes -= getattr(self._kept.pop(key, None), "nbytes", 0)
        return tile

    def _keep(self, key: tuple[int, int], tile: np.ndarray | BadSlide) -> None:
        self._kept[key] = tile
        self._bytes += getattr(tile, "nbytes", 0)
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._bytes -= getattr(self._kept.pop(oldest), "nbytes", 0)


def _paste(canvas: np.ndarray, tile: np.ndarray, y: int, x: int) -> None:
    """Copies the part of `tile`, whose corner is at (y, x) of the canvas, that lies within the canvas."""
    top, left = max(0, -y), max(0, -x)
    part = tile[top : canvas.shape[0] - y, left : canvas.shape[1] - x]
    canvas[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]] = part
