"""The host's part of an extraction: tiles of slides and stores, read and prepared by worker processes. No jax here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.data.cut_slide import opened
from histojax.data.decode import BadTile
from histojax.data.preprocess import fit
from histojax.data.slide_bytes import bytes_of, sample_of
from histojax.data.slide_list import SlideEntry
from histojax.data.slide_marks import NO_MARKS, Marks, marks_digest, read_marks
from histojax.data.tiles import Source
from histojax.features.drawing import Drawing, drawing_of
from histojax.slides.choose import check_tile, choose_tiles
from histojax.slides.settings import TileSettings
from histojax.slides.slide import BadSlide, Slide
from histojax.slides.stain import normaliser

MOST_OPEN = 2  # slides that a worker keeps open: chunks of one slide come in a row
CHUNK = 64  # tiles of one unit of work, fewer where they are large


@dataclass(frozen=True)
class Rule:
    """What of an encoder's preprocessing is done on the host; encoders with equal ones share the pixels."""

    size: int
    crop: int | None
    filter: str
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # not applied here
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0

    @property
    def side(self) -> int:
        """Side in pixels of a prepared tile."""
        return self.crop or self.size


@dataclass(frozen=True)
class Plan:
    """The tiles of one slide: corners in level-0 pixels, and what its files say of it."""

    coords: np.ndarray
    footprint: float
    mpp: float
    mpp_from: str
    size: tuple[int, int]
    slide_bytes: int
    rejected: int
    notes: tuple[str, ...] = ()
    drawing: Drawing | None = None
    slide_sample: str = ""
    annotations: str = ""


@dataclass(frozen=True)
class Chunk:
    """Some tiles of a job, in its order from `first` on: places on a slide, or numbers in a source."""

    job: int
    first: int
    count: int
    entry: SlideEntry | None = None
    mpp: float | None = None  # of the slide, given
    coords: np.ndarray | None = None  # (k, 2)
    source: int = 0
    numbers: np.ndarray | None = None  # (k,)


@dataclass(frozen=True)
class Pixels:
    """What became of a chunk: for each rule the prepared tiles (k, h, w, 3) uint8 of its good `places`.

    `bad` and `rejected` are (place, reason) of the others; places count from 0 within the chunk.
    """

    job: int
    first: int
    prepared: tuple[np.ndarray, ...]
    places: np.ndarray
    bad: tuple[tuple[int, str], ...] = ()
    rejected: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Planner:
    """Chooses the tiles of slides, in a worker process.

    Args:
        settings: what to choose.
        mpp: of slides that do not tell theirs.
        marks: annotations that count.
    """

    settings: TileSettings
    mpp: float | None = None
    marks: Marks = NO_MARKS

    def __call__(self, entry: SlideEntry) -> Plan:
        """The tiles of a slide; raises BadSlide."""
        with opened(entry, self.mpp) as slide:
            slide.check_mpp(self.settings.mpp)
            choice = choose_tiles(slide, self.settings, *read_marks(slide, self.marks, entry))
            drawing = drawing_of(slide, choice)
            return Plan(
                choice.coords,
                choice.footprint,
                slide.mpp,
                slide.mpp_from,
                slide.size,
                bytes_of(entry.path),
                sum(choice.rejected.values()),
                tuple(slide.notes),
                drawing,
                sample_of(entry.path),
                marks_digest(self.marks, entry),
            )


@dataclass(frozen=True)
class Reader:
    """Reads and prepares chunks, in a worker process.

    Args:
        rules: one for each way in which tiles are prepared.
        sources: that chunks take tiles from by number.
        settings: of tiles that are read from slides.
        check: whether these still have to pass the checks of their pixels.
    """

    rules: tuple[Rule, ...]
    sources: tuple[Source, ...] = ()
    settings: TileSettings | None = None
    check: bool = True

    def __call__(self, chunk: Chunk) -> Pixels:
        """The prepared tiles of a chunk; raises BadSlide if its slide cannot be opened."""
        prepared: list[list[np.ndarray]] = [[] for _ in self.rules]
        places, bad, rejected = [], [], []
        for place, tile in enumerate(self._tiles(chunk)):
            if isinstance(tile, (BadTile, BadSlide)):
                bad.append((place, tile.reason))
                continue
            if chunk.coords is not None and (why := self._rejected(tile)):
                rejected.append((place, why))
                continue
            try:
                fitted = [self._fitted(self._stained(chunk, tile), rule) for rule in self.rules]
            except UserError as error:
                bad.append((place, " ".join(str(error).split())))
                continue
            for those, one in zip(prepared, fitted):
                those.append(one)
            places.append(place)
        arrays = tuple(_stacked(those, rule) for those, rule in zip(prepared, self.rules))
        return Pixels(chunk.job, chunk.first, arrays, np.array(places, np.int64), tuple(bad), tuple(rejected))

    def _tiles(self, chunk: Chunk) -> Iterator[np.ndarray | BadTile | BadSlide]:
        if not chunk.count:
            return iter(())
        if chunk.entry is None:
            assert chunk.numbers is not None
            return (_read(self.sources[chunk.source], int(number)) for number in chunk.numbers)
        assert self.settings is not None
        slide = _kept_open(chunk.entry, chunk.mpp)
        return slide.tiles(chunk.coords, self.settings.tile_px, self.settings.mpp)

    def _rejected(self, tile: np.ndarray) -> str:
        return check_tile(tile, self.settings) if self.check and self.settings is not None else ""

    def _stained(self, chunk: Chunk, tile: np.ndarray) -> np.ndarray:
        if chunk.coords is None or self.settings is None or self.settings.stain == "none":
            return tile
        return normaliser(self.settings.stain)(tile)

    def _fitted(self, tile: np.ndarray, rule: Rule) -> np.ndarray:
        fitted = fit(tile, rule)
        if fitted.shape[:2] != (rule.side, rule.side):
            raise UserError(f"not square: {tile.shape[1]}x{tile.shape[0]} px")
        return fitted


def _read(source: Source, number: int) -> np.ndarray | BadTile:
    try:
        return source.read(number)
    except BadTile as error:
        return BadTile(error.path, error.reason)  # without the traceback, which holds the bytes


def _stacked(tiles: list[np.ndarray], rule: Rule) -> np.ndarray:
    return np.stack(tiles) if tiles else np.zeros((0, rule.side, rule.side, 3), np.uint8)


_open: OrderedDict[tuple, Slide] = OrderedDict()  # of this process


def _kept_open(entry: SlideEntry, mpp: float | None) -> Slide:
    """The slide of a chunk, opened before or now; raises BadSlide."""
    key = (str(entry.path), entry.mpp, mpp)
    if key not in _open:
        _open[key] = opened(entry, mpp)
        while len(_open) > MOST_OPEN:
            _open.popitem(last=False)[1].close()
    _open.move_to_end(key)
    return _open[key]


def chunks_of(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices of at most `size`; one empty slice of nothing, so that a job without tiles is heard of, too."""
    for start in range(0, max(count, 1), size):
        yield slice(start, min(start + size, count))


def rule_of(preprocess: Any) -> Rule:
    """The host's part of an encoder's preprocessing."""
    return Rule(preprocess.size, preprocess.crop, preprocess.filter)
