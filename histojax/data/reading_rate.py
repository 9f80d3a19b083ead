"""How many tiles a core of this machine reads and decodes in a second."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from histojax.data.decode import BadTile, decode_tile, fit_tile
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import Source

SAMPLE = 64  # tiles read in turn
JPEG = {"quality": 90}


@dataclasses.dataclass(frozen=True)
class ReadingRate:
    """Of one thread."""

    images_a_second: float
    bytes_a_tile: float | None  # encoded; None where a source does not tell
    tiles: int | None  # there are; None for a stand-in
    what: str  # was read


def rate_of_source(source: Source, tile_px: int, seconds: float = 1.0) -> ReadingRate:
    """Reads tiles spread evenly over a source, for at most so long; unreadable ones count as read."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(np.int64)).tolist()
    files = getattr(source, "files", None)
    sizes = [] if files is None else [max(files.size(i), 0) for i in chosen]

    def read(i: int) -> None:
        with contextlib.suppress(BadTile):
            fit_tile(source.read(chosen[i % len(chosen)]), tile_px)

    mean = float(np.mean(sizes)) if sizes else None
    return ReadingRate(_rate(read, seconds), mean, len(source), "the training tiles")


def rate_of_stand_in(tile_px: int, seconds: float = 1.0) -> ReadingRate:
    """Decodes JPEG files of synthetic tissue of that size, where the tiles to be trained on are not here."""
    tissue, encoded = SyntheticTissue(8, tile_px), []
    for i in range(len(tissue)):
        buffer = io.BytesIO()
        Image.fromarray(tissue.read(i)).save(buffer, "JPEG", **JPEG)
        encoded.append(buffer.getvalue())

    def read(i: int) -> None:
        fit_tile(decode_tile(encoded[i % len(encoded)], "tile"), tile_px)

    mean = float(np.mean([len(data) for data in encoded]))
    return ReadingRate(_rate(read, seconds), mean, None, f"JPEG {JPEG['quality']} of synthetic tissue, {tile_px} px")


def _rate(read: Callable[[int], None], seconds: float) -> float:
    """Tiles for each second that a core works on them: neither other programs nor a slow disk count."""
    read(0)
    began, worked, done = time.perf_counter(), time.thread_time(), 0
    while not done or time.perf_counter() - began < seconds:
        done += 1
        read(done)
    return done / max(time.thread_time() - worked, 1e-9)
