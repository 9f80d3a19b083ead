"""Samples of more than 8 bits to 8: what scale they are on is looked up or shown by the samples, never guessed.

A 16-bit file may hold 8, 10, 12, 14, 15 or 16 bits, and only some say which. In this order:

1. the file says so: BitsPerSample, SMaxSampleValue or MaxSampleValue (TIFF), SignificantBits (OME), sBIT (PNG);
2. the samples show it: above 32767 they use all 16 bits; nothing above 255 is an 8-bit picture in 16-bit words;
   low bits that only repeat the high ones, or a low byte of 0, come from scaling fewer bits up to 16;
3. else the scale is unknown, and the tile unreadable: taken for 16 bits it would be too dark, and scaled by its own
   maximum it would differ from its neighbours.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from PIL import ImageFile

BITS_PER_SAMPLE, MAX_SAMPLE_VALUE, DESCRIPTION, SMAX_SAMPLE_VALUE = 258, 281, 270, 341  # tags of TIFF
REMEDY = "save it as 8-bit RGB"


class Unreadable(Exception):
    """Why an image cannot be decoded for certain."""


def to_8_bits(samples: np.ndarray, bits: int | None) -> np.ndarray:
    """uint8 of unsigned integer `samples` of any shape; `bits` a sample, None where the file does not say.

    The high bits are kept (x >> (bits - 8)), which is what Pillow does to 16-bit RGB. Raises Unreadable for an
    unknown scale, and for samples beyond the bits they should have.
    """
    top = int(samples.max(initial=0))
    if bits is None:
        bits = _bits_shown(samples, top)
    if top >= 1 << bits:
        raise Unreadable(f"its samples reach {top}, beyond the {bits} bits that the file says it has; {REMEDY}")
    if bits >= 8:
        return (samples >> (bits - 8)).astype(np.uint8)
    return (samples.astype(np.uint32) * 255 // ((1 << bits) - 1)).astype(np.uint8)


def _bits_shown(samples: np.ndarray, top: int) -> int:
    """Bits of the scale that the samples themselves show."""
    if 32767 < top < 65536 or (top > 255 and _scaled_up(samples)):
        return 16
    if top <= 255:
        return 8
    if top >= 65536:
        raise Unreadable(f"its samples reach {top} on an unknown scale; {REMEDY}")
    raise Unreadable(
        f"16-bit samples that reach only {top} ({top.bit_length()} bits?), and no tag tells their scale: {REMEDY}"
    )


def _scaled_up(samples: np.ndarray) -> bool:
    """Whether 8 or 12 bits were scaled to 16: the low ones repeat the high ones, or the whole low byte is 0.

    Fewer low bits that are 0 prove nothing: 8 bits scaled to 12 have them, too.
    """
    if (samples % 257 == 0).all() or (samples & 255 == 0).all():
        return True
    low, twelve = samples & 15, samples >> 4
    return len(np.unique(samples)) >= 16 and bool(low.any() and (low == twelve >> 8).all())


def bits_of_tiff(tags: Any) -> int | None:
    """Bits of a sample's scale by the tags of a TIFF; None where they say 16 and nothing else."""
    bits = max(_numbers(tags.get(BITS_PER_SAMPLE, 16)))
    if bits != 16:
        return bits
    for tag in (SMAX_SAMPLE_VALUE, MAX_SAMPLE_VALUE):
        if tag in tags:
            top = max(_numbers(tags[tag]))
            if top > 0 and top & (top + 1) == 0:  # 2**k - 1: the end of a scale, not the brightest sample
                return top.bit_length()
    found = re.search(r'SignificantBits="(\d+)"', str(tags.get(DESCRIPTION, "")))
    return int(found[1]) if found and 0 < int(found[1]) <= 16 else None


def _numbers(value: Any) -> list[int]:
    return [int(v) for v in (value if isinstance(value, tuple) else (value,))]


def bits_of_png(data: bytes, samples: np.ndarray) -> int | None:
    """Bits by the sBIT chunk of a 16-bit PNG; None without one, or where it leaves the scale open.

    The standard asks writers to scale samples up to 16 bits; those of microscopes often do not.
    """
    place = data.find(b"sBIT", 0, data.find(b"IDAT"))
    if place < 4:
        return None
    length = int.from_bytes(data[place - 4 : place], "big")
    bits = max(data[place + 4 : place + 4 + min(length, 4)], default=16)
    if int(samples.max(initial=0)) >= 1 << bits or _scaled_up(samples):
        return 16
    return bits if 8 <= bits < 16 and (samples & ((1 << (16 - bits)) - 1)).any() else None


def check_dark(pixels: np.ndarray, bits: int) -> None:
    """Raises Unreadable for 8-bit pixels that a reader made of `bits` a sample where they may hold fewer bits."""
    top = int(pixels.max(initial=0))
    if bits == 16 and top < 128:
        raise Unreadable(
            f"16-bit samples in the lower half of their scale (up to {top} of 255): they may hold fewer bits; {REMEDY}"
        )


def whole_samples(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> np.ndarray | None:
    """(h, w, c) uint16 of a 16-bit colour file, opened twice and not loaded; None where Pillow has only high bytes.

    Pillow unpacks the high bytes of each sample. Told the other byte order, it unpacks the low ones.
    """
    if len(image.tile) != 1:
        return None
    tile = image.tile[0]
    raw = raw_mode(tile)
    if raw == "LA;16B":  # no unpacker of its low bytes, but four bytes a pixel
        parts = np.asarray(_with_raw(again, "RGBA")).astype(np.uint16)
        return parts[..., ::2] << 8 | parts[..., 1::2]
    kind, _, order = raw.partition(";16")
    if kind not in ("RGB", "RGBA", "RGBX", "CMYK") or order not in ("B", "L", "N"):
        return None
    low_first = order == "L" or (order == "N" and sys.byteorder == "little")
    low = np.asarray(_with_raw(again, f"{kind};16{'B' if low_first else 'L'}")).astype(np.uint16)
    return np.asarray(image).astype(np.uint16) << 8 | low


def raw_mode(tile: Any) -> str:
    """How Pillow is going to unpack a part of an image that is not loaded, e.g. RGB;16B."""
    return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])


def _with_raw(image: ImageFile.ImageFile, raw: str) -> ImageFile.ImageFile:
    tile = image.tile[0]
    args = raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:])
    image.tile = [tile._replace(args=args)]
    return image
