"""PNG and TIFF files written byte by byte: every bit depth, order and tag, also those that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png16(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """PNG of 16-bit `samples` (h, w, c), c = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; `chunks` before the data."""
    height, width, count = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    samples: np.ndarray, photometric: int, *, order: str = "<", planes: bool = False, pages: int = 1, **tags
) -> bytes:
    """Uncompressed TIFF of integer `samples` (h, w, c); `tags` are t258=(8, 8, 8) and so on, on top of the usual."""
    height, width, count = samples.shape
    stored = samples.transpose(2, 0, 1) if planes else samples
    strips = [plane.tobytes() for plane in (stored if planes else [stored])]
    offsets = np.cumsum([8] + [len(strip) for strip in strips]).tolist()
    bits = samples.dtype.itemsize * 8
    known = {256: width, 257: height, 258: (bits,) * count, 259: 1, 262: photometric, 273: tuple(offsets[:-1])}
    known |= {277: count, 278: height, 279: tuple(len(s) for s in strips), 284: 2 if planes else 1}
    known |= {int(name[1:]): value for name, value in tags.items()}
    mark = b"II*\0" if order == "<" else b"MM\0*"
    body, start = b"".join(strips), offsets[-1]
    directories = b""
    for page in range(pages):
        directory = _directory(known, order, start, last=page == pages - 1)
        start += len(directory)
        directories += directory
    return mark + struct.pack(order + "I", offsets[-1]) + body + directories


def _directory(tags: dict, order: str, start: int, last: bool) -> bytes:
    """One page's directory at the byte `start`, its long values behind it."""
    head, tail = struct.pack(order + "H", len(tags)), b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, str):
            kind, data, count = 2, value.encode() + b"\0", len(value) + 1
        else:
            values = value if isinstance(value, tuple) else (value,)
            kind, data, count = 4, struct.pack(f"{order}{len(values)}I", *values), len(values)
        if len(data) > 4:
            place, tail = struct.pack(order + "I", behind + len(tail)), tail + data
        else:
            place = data.ljust(4, b"\0")
        head += struct.pack(order + "HHI", tag, kind, count) + place
    return head + struct.pack(order + "I", 0 if last else behind + len(tail)) + tail
