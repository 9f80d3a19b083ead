"""Tiles read straight from slides: the Source of a store of coordinates."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.data.decode import BadTile
from histojax.data.slide_bytes import bytes_of
from histojax.data.store_source import Index
from histojax.slides.stain import normaliser

MOST_OPEN = 24  # slides that wait, opened, for their next tile; each keeps what it has decoded last
READ_BY = ("tile_px", "mpp", "stain")  # settings without which a place on a slide is no tile


class SlideTiles:
    """The Source of a store of coordinates. `index` has all that is known of them.

    Any thread of any process may read; a slide that two threads need at once is opened twice. Slides lie where
    slides.csv says, paths in it that are not absolute being relative to the store. Raises UserError if settings or
    slides are missing there.
    """

    def __init__(self, index: Index, open_slide: Callable[..., Any] | None = None):
        self.index = index
        self.root = str(index.root)
        self.classes, self.labels = index.labels()
        self.groups, kind = index.groups()
        self.facts = index.facts(kind)
        settings = index.plan.get("settings", index.plan)
        missing = [key for key in READ_BY[:2] if key not in settings]
        if missing:
            raise UserError(
                f"{index.root / 'store.json'}: a store of coordinates needs {' and '.join(missing)} in its plan"
            )
        self.tile_px, self.mpp = int(settings["tile_px"]), float(settings["mpp"])
        self._normalise = normaliser(settings.get("stain", "none"))
        self._open_slide = open_slide
        self._slides = _Slides(open_slide)
        self._check_slides()

    def __getstate__(self) -> dict:
        return {"index": self.index, "open_slide": self._open_slide}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def coords(self) -> np.ndarray | None:
        """(n, 2) int64 x, y in level-0 pixels."""
        return self.index.coords

    def slide_path(self, slide: str) -> Path:
        """Where a slide lies by slides.csv; raises UserError if it does not say."""
        row = self.index.slides.get(slide, {})
        if not row.get("path"):
            raise UserError(f"{self.index.root / 'slides.csv'}: has no row with a path for the slide {slide}")
        return self.index.root / row["path"]

    def name(self, index: int) -> str:
        """The slide of a tile and its place, e.g. slides/a.svs (x=1024, y=2048)."""
        slide, x, y = self._place(index)
        return f"{self.slide_path(slide)} (x={x}, y={y})"

    def read(self, index: int) -> np.ndarray:
        """(tile_px, tile_px, 3) uint8 RGB, its stain normalised if the store was made so; raises BadTile."""
        from histojax.slides.slide import BadSlide

        slide, x, y = self._place(index)
        mpp = self.index.slides[slide].get("mpp")
        try:
            with self._slides.opened(self.slide_path(slide), float(mpp) if mpp else None) as opened:
                tile = opened.tile(x, y, self.tile_px, self.mpp)
        except BadSlide as error:
            reason = error.reason
        else:
            return self._normalise(tile)
        raise BadTile(self.name(index), reason)

    def fingerprint(self) -> str:
        """SHA-256 that changes when a place, a label, tile size, mpp or stain does; not over pixels."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.index.fingerprint(self.index.plan.get("settings", self.index.plan), READ_BY)

    def _place(self, index: int) -> tuple[str, int, int]:
        x, y = (int(self.index.column(axis)[index]) for axis in "xy")
        return str(self.index.slide_names[index]), x, y

    def _check_slides(self) -> None:
        """Raises UserError if slides have moved or are others by now, naming the first."""
        used = self.index.slide_names.used()
        gone = [path for path in map(self.slide_path, used) if not path.exists()]
        if gone:
            raise UserError(
                f"{self.root}: {len(gone)} of its {len(used)} slides are not where they were, the first {gone[0]}: put "
                f"them back, or correct the column path of {self.index.root / 'slides.csv'}"
            )
        for slide in used:
            size, path = self.index.slides[slide].get("file_bytes"), self.slide_path(slide)
            if size and size.isdigit() and int(size) != bytes_of(path):
                raise UserError(
                    f"{path}: has {bytes_of(path)} bytes and had {size} when its tiles were chosen: another slide? Put "
                    f"the right one there, or correct the column path of {self.index.root / 'slides.csv'}"
                )


class _Slides:
    """Opened slides of this process, lent to one thread at a time."""

    def __init__(self, open_slide: Callable[..., Any] | None):
        self._open_slide = open_slide
        self._idle: OrderedDict[int, tuple[tuple, Any]] = OrderedDict()  # the one used last is last
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, path: Path, mpp: float | None) -> Iterator[Any]:
        """Lends a slide; raises BadSlide."""
        key = (os.fspath(path), mpp)
        slide = self._taken(key)
        if slide is None:
            slide = self._opener()(path, mpp)
        try:
            yield slide
        except BaseException:
            slide.close()  # whatever state it is in
            raise
        self._put_back(key, slide)

    def _opener(self) -> Callable[..., Any]:
        if self._open_slide is None:
            from histojax.slides.slide import open_slide

            self._open_slide = open_slide
        return self._open_slide

    def _taken(self, key: tuple) -> Any | None:
        with self._lock:
            for number in reversed(self._idle):
                if self._idle[number][0] == key:
                    return self._idle.pop(number)[1]
        return None

    def _put_back(self, key: tuple, slide: Any) -> None:
        with self._lock:
            self._idle[id(slide)] = key, slide
            oldest = self._idle.popitem(last=False)[1][1] if len(self._idle) > MOST_OPEN else None
        if oldest is not None:
            oldest.close()
