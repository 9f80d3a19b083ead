"""Slides that OpenSlide reads: pixels on white, errors in words, a fresh start after each failed read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import openslide

from histojax.slides.bad_slide import BadSlide

CACHE_BYTES = 96 << 20  # decoded tiles that OpenSlide keeps: a row of a large slide
HINTS = (
    ("image flavor", "its header lacks ImageType (stripped with the patient's data?): export the series again"),
    ("Not a JPEG file", "damaged JPEG data"),
    ("Premature end of JPEG", "damaged JPEG data"),
    ("Short read", "the file is truncated: copy or download it again"),
)


class OpenslideFile:
    """One opened slide file."""

    def __init__(self, path: Path, shown: str) -> None:
        """Opens `path`, which errors call `shown`. Raises BadSlide."""
        self.path, self.shown = path, shown
        self._slide = self._open()
        self.vendor: str = self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        self.properties: Mapping[str, str] = _readable(self._slide.properties)
        self._downsamples = self._slide.level_downsamples

    def _open(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(self.path)
            slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        except openslide.OpenSlideError as error:
            raise BadSlide(self.shown, f"OpenSlide cannot read it ({in_words(error, self.path)})") from error
        return slide

    def _reopen(self) -> None:
        """After a failed read OpenSlide would refuse every later one. Raises BadSlide if the file is gone by now."""
        failed, self._slide = self._slide, self._open()
        failed.close()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """(height, width, 3) uint8 from about (x, y) of a level, and where its first pixel lies, level px.

        OpenSlide takes positions in whole level-0 px: on a level whose downsample is no whole number it cannot hit
        every pixel of that level, and interpolates. Raises BadSlide.
        """
        down = self._downsamples[level]
        at = round(x * down), round(y * down)
        try:
            image = self._slide.read_region(at, level, (width, height))
        except openslide.OpenSlideError as error:
            self._reopen()
            where = f"the region of {width}x{height} px at ({at[0]}, {at[1]}) of level {level}"
            raise BadSlide(self.shown, f"{where} cannot be read ({in_words(error, self.path)})") from error
        return on_white(np.asarray(image)), at[0] / down, at[1] / down

    def position(self, level: int, x: int) -> float:
        """Where a read at `x`, level px along either axis, really begins."""
        return round(x * self._downsamples[level]) / self._downsamples[level]

    def associated(self) -> dict[str, tuple[int, int]]:
        """Names and (width, height) of the associated images, as the metadata have them."""
        found = {}
        for name in self._slide.associated_images:
            keys = (f"openslide.associated.{name}.{side}" for side in ("width", "height"))
            width, height = (int(self.properties.get(key, 0)) for key in keys)
            found[name] = (width, height)
        return found

    def associated_image(self, name: str) -> np.ndarray:
        """(h, w, 3) uint8 of one associated image. Raises BadSlide."""
        try:
            return on_white(np.asarray(self._slide.associated_images[name]))
        except openslide.OpenSlideError as error:
            self._reopen()
            raise BadSlide(self.shown, f"its {name} cannot be read ({in_words(error, self.path)})") from error

    def close(self) -> None:
        """Closes the file."""
        self._slide.close()


def _readable(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties whose names can be looked up: one that is no UTF-8 is listed, but not found."""
    found = {}
    for name in properties:
        with contextlib.suppress(KeyError):
            found[name] = properties[name]
    return found


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of (h, w, 4): what is transparent shows white."""
    alpha = rgba[..., 3]
    if rgba.size == 0 or alpha.min() == 255:
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB) if rgba.size else rgba[..., :3]
    share = alpha[..., None].astype(np.uint16)
    return ((rgba[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def in_words(error: Exception, path: Path) -> str:
    """The message of OpenSlide on one line, without the path, with a hint where we know more."""
    text = (
        " ".join(str(error).split()).replace(f"Reading {path}: ", "").replace(f"file {path}", "the file").rstrip(". ")
    )
    hint = next((hint for part, hint in HINTS if part in text), "")
    return f"{text}: {hint}" if hint else text or type(error).__name__
