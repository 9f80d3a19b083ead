"""Which reader takes a file: OpenSlide where it knows the format, else that of plain images; the rest in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import openslide

from histojax.common.files import expanded, reason
from histojax.slides.bad_slide import BadSlide
from histojax.slides.dicom_folder import first_of_series
from histojax.slides.openslide_file import OpenslideFile
from histojax.slides.plain_image import PlainImage, plain_format
from histojax.slides.what_it_is import what_it_is

START_BYTES = 512
MOST_SIDE_PX, MOST_TILE_PIXELS = 1 << 22, 1 << 28  # beyond them a header is damaged, whatever it says


class SlideFile(Protocol):
    """What a reader offers."""

    vendor: str
    sizes: tuple[tuple[int, int], ...]  # (width, height) of each level, finest first
    properties: Mapping[str, str]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Pixels (height, width, 3) uint8 of a region within a level, and where its first lies. Raises BadSlide."""

    def associated(self) -> dict[str, tuple[int, int]]:
        """Names and sizes of the associated images."""

    def associated_image(self, name: str) -> np.ndarray:
        """(h, w, 3) uint8."""

    def close(self) -> None:
        """Closes the file."""


def open_file(path: Path) -> SlideFile:
    """The file opened by the reader that takes it. Raises BadSlide with the reason in words."""
    shown, path = str(path), expanded(path)
    if path.is_dir():
        path = first_of_series(path, shown)
    start = _start(path, shown)
    if openslide.OpenSlide.detect_format(path) or start[128:132] == b"DICM":
        return _with_pixels(_by_openslide(path, shown), shown)
    kind = plain_format(start)
    if not kind:
        raise BadSlide(shown, what_it_is(start, path.name))
    return _with_pixels(PlainImage(path, shown, kind), shown)


def _by_openslide(path: Path, shown: str) -> SlideFile:
    """The slide as OpenSlide reads it; a TIFF whose compression (JPEG 2000, WebP, Zstandard) it lacks as an image."""
    try:
        return OpenslideFile(path, shown)
    except BadSlide as error:
        if "Unsupported TIFF compression" not in error.reason:
            raise
        return PlainImage(path, shown, "TIFF")


def _with_pixels(file: SlideFile, shown: str) -> SlideFile:
    """The file, if its levels have pixels and tiles of a possible size; raises BadSlide."""
    for i, (width, height) in enumerate(file.sizes):
        tile = [file.properties.get(f"openslide.level[{i}].tile-{side}", "1") for side in ("width", "height")]
        sides = 1 <= min(width, height) <= max(width, height) <= MOST_SIDE_PX
        if not sides or int(tile[0]) * int(tile[1]) > MOST_TILE_PIXELS:  # OpenSlide aborts where memory ends
            file.close()
            raise BadSlide(shown, f"damaged: its level {i} has {width}x{height} px in tiles of {'x'.join(tile)} px")
    return file


def _start(path: Path, shown: str) -> bytes:
    """The first bytes of a file. Raises BadSlide if there are none to be had."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise BadSlide(shown, "is no regular file")
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except FileNotFoundError as error:
        raise BadSlide(shown, "there is no such file") from error
    except OSError as error:
        raise BadSlide(shown, f"cannot be opened ({reason(error)})") from error
    if not start:
        raise BadSlide(shown, "an empty file (0 bytes): the copy or download was interrupted")
    return start
