"""A small whole-slide DICOM series, written by hand: a file a level, JPEG frames, TILED_FULL."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pyramids import jpeg_streams, shrink

WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
LONG = ("OB", "SQ", "UN")


def element(group: int, number: int, kind: str, value: str | bytes | int | Sequence[bytes]) -> bytes:
    """One element, explicit type, little endian; the value of a sequence is its items."""
    if kind == "SQ":
        data = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value)
    elif kind in ("US", "UL"):
        data = struct.pack("<H" if kind == "US" else "<I", value)
    else:
        data = value if isinstance(value, bytes) else str(value).encode()
        data += (b"\0" if kind in ("UI", "OB") else b" ") * (len(data) % 2)
    length = struct.pack("<HI", 0, len(data)) if kind in LONG else struct.pack("<H", len(data))
    return struct.pack("<HH", group, number) + kind.encode() + length + data


def frames(streams: Sequence[bytes]) -> bytes:
    """The pixel data element with a stream a frame and an offset table."""
    padded = [stream + b"\0" * (len(stream) % 2) for stream in streams]
    starts = np.cumsum([0] + [len(stream) + 8 for stream in padded[:-1]])
    table = struct.pack(f"<{len(starts)}I", *starts)
    items = [table, *padded]
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    head = struct.pack("<HH", 0x7FE0, 0x0010) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF)
    return head + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def write_series(
    folder: Path, image: np.ndarray, mpp: float = 0.5, downsamples: Sequence[float] = (1, 4), series: str = "1.2.3.4"
) -> Path:
    """Writes the series into a folder, which it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    for level, downsample in enumerate(downsamples):
        pixels, uid, tile = shrink(image, downsample), f"{series}.{level + 1}", 240
        height, width = pixels.shape[:2]
        streams = jpeg_streams(pixels, tile, 90, (2, 2), False)
        spacing = mpp * downsample / 1000
        measures = element(0x0028, 0x0030, "DS", f"{spacing:.9f}\\{spacing:.9f}")
        shared = element(0x0028, 0x9110, "SQ", [measures])
        kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if level == 0 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
        meta = (
            element(0x0002, 0x0001, "OB", b"\0\1")
            + element(0x0002, 0x0002, "UI", WSI_STORAGE)
            + element(0x0002, 0x0003, "UI", uid)
            + element(0x0002, 0x0010, "UI", JPEG_BASELINE)
        )
        body = (
            element(0x0008, 0x0008, "CS", kind)
            + element(0x0008, 0x0016, "UI", WSI_STORAGE)
            + element(0x0008, 0x0018, "UI", uid)
            + element(0x0008, 0x0060, "CS", "SM")
            + element(0x0020, 0x000D, "UI", "1.2.3")
            + element(0x0020, 0x000E, "UI", series)
            + element(0x0020, 0x9311, "CS", "TILED_FULL")
            + element(0x0028, 0x0002, "US", 3)
            + element(0x0028, 0x0004, "CS", "YBR_FULL_422")
            + element(0x0028, 0x0006, "US", 0)
            + element(0x0028, 0x0008, "IS", len(streams))
            + element(0x0028, 0x0010, "US", tile)
            + element(0x0028, 0x0011, "US", tile)
            + element(0x0028, 0x0100, "US", 8)
            + element(0x0028, 0x0101, "US", 8)
            + element(0x0028, 0x0102, "US", 7)
            + element(0x0028, 0x0103, "US", 0)
            + element(0x0048, 0x0006, "UL", width)
            + element(0x0048, 0x0007, "UL", height)
            + element(0x0048, 0x0303, "UL", 1)
            + element(0x5200, 0x9229, "SQ", [shared])
            + frames(streams)
        )
        head = element(0x0002, 0x0000, "UL", len(meta)) + meta
        (folder / f"{series.replace('.', '_')}_{level}.dcm").write_bytes(bytes(128) + b"DICM" + head + body)
    return folder
