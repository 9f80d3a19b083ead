"""Synthetic slides for tests: pyramids written with tifffile that OpenSlide reads as Aperio or generic TIFF.

    write_pyramid(path, picture(1303, 1001), mpp=0.25, downsamples=(1, 4))

`downsamples` that are whole numbers are made as scanners make them (means of blocks, the rest dropped); others show all
of level 0 at the rounded size. `jpeg_tables` writes abbreviated JPEG streams as Aperio does; `spoil` maps (level, tile
number) to bytes that take the place of that tile's data (b"" for a missing tile).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: pink and purple blobs on near white, with fine noise: something that JPEG can hold."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 50 + 2, width // 50 + 2)).astype(np.float32)
    shape = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    tissue = np.clip((shape - 0.45) * 4, 0, 1)
    fine = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.5)[..., None]
    colour = np.array([200, 130, 180]) + fine * np.array([90, 120, 60])
    return np.clip(245 * (1 - tissue) + colour * tissue, 0, 255).astype(np.uint8)


def shrink(image: np.ndarray, downsample: float) -> np.ndarray:
    """The level of an image at a downsample."""
    height, width = image.shape[:2]
    if downsample == int(downsample):
        k = int(downsample)
        image = image[: height // k * k, : width // k * k]
        return cv2.resize(image, (width // k, height // k), interpolation=cv2.INTER_AREA)
    size = round(width / downsample), round(height / downsample)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def write_pyramid(
    path: Path,
    image: np.ndarray,
    mpp: float | str | None = 0.25,
    downsamples: Sequence[float] = (1, 4),
    *,
    tile: int = 240,
    quality: int = 90,
    subsampling: tuple[int, int] = (2, 2),
    rgb: bool = False,
    vendor: str = "aperio",
    compression: str = "jpeg",
    jpeg_tables: bool = False,
    spoil: Mapping[tuple[int, int], bytes] | None = None,
    power: int | None = 40,
) -> Path:
    """Writes a pyramid, mpp None for none; returns its path. `rgb` stores JPEG tiles as RGB instead of YCbCr."""
    options: dict = {"tile": (tile, tile), "metadata": None, "compression": compression, "photometric": "rgb"}
    if vendor == "aperio":
        facts = [f"AppMag = {power}"] * bool(power) + [f"MPP = {mpp}"] * (mpp is not None)
        size = f"{image.shape[1]}x{image.shape[0]} ({tile}x{tile}) JPEG/RGB Q={quality}"
        options["description"] = "|".join([f"Aperio Image Library v11.2.1\n{size}", *facts])
    elif mpp is not None:
        options |= {"resolution": (1e4 / float(mpp), 1e4 / float(mpp)), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for level, downsample in enumerate(downsamples):
            pixels = shrink(image, downsample)
            options["subfiletype"] = int(level > 0)
            if compression != "jpeg":
                file.write(pixels, **options)
                continue
            streams = jpeg_streams(pixels, tile, quality, (1, 1) if rgb else subsampling, rgb)
            tables = None
            if jpeg_tables:
                tables, streams = abbreviated(streams)
            streams = [(spoil or {}).get((level, i), stream) for i, stream in enumerate(streams)]
            colour = {"photometric": "rgb" if rgb else "ycbcr", "subsampling": (1, 1) if rgb else subsampling}
            file.write(iter(streams), shape=pixels.shape, dtype=np.uint8, jpegtables=tables, **options | colour)
    return path


def jpeg_streams(pixels: np.ndarray, tile: int, quality: int, subsampling: tuple[int, int], rgb: bool) -> list[bytes]:
    """The JPEG of each tile, row by row; those at the right and lower edge repeat the last pixel."""
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    space = "RGB" if rgb else "YCbCr"
    names = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}
    return [
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels[y : y + tile, x : x + tile]),
            level=quality, colorspace="RGB", outcolorspace=space, subsampling=names[subsampling],
        )
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]  # fmt: skip


def abbreviated(streams: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The tables that JPEG streams share, as one stream, and the streams without them."""
    tables, parts = b"", []
    for stream in streams:
        own, rest, at = b"", b"", 2
        while stream[at + 1] != 0xDA:  # start of scan
            end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
            if stream[at + 1] in (0xDB, 0xC4):  # quantisation, Huffman
                own += stream[at:end]
            else:
                rest += stream[at:end]
            at = end
        tables = tables or own
        assert own == tables
        parts.append(b"\xff\xd8" + rest + stream[at:])
    return b"\xff\xd8" + tables + b"\xff\xd9", parts
