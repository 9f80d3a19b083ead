"""An opened image to RGB, whatever it is stored as: mode, bit depth, photometry, transparency, pages.

Rules, the same for training, evaluation and `load_encoder`:

- Grey, palette, CMYK, YCbCr, LAB, HSV become RGB; transparency is composited on white, the colour of empty glass.
- More than 8 bits a sample become 8 as `depth` says, on the scale of the file; one that cannot be known is refused.
- Signed, 32-bit and floating-point samples have no known black and white: refused.
- Of a pyramid the largest page is read. Several pages or frames of one size are a stack of which none is *the* tile:
  refused. Orientation tags (EXIF) and colour profiles are ignored.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageCms, ImageFile

from histojax.common.depth import (
    BITS_PER_SAMPLE,
    DESCRIPTION,
    REMEDY,
    Unreadable,
    bits_of_png,
    bits_of_tiff,
    check_dark,
    raw_mode,
    to_8_bits,
    whole_samples,
)

SUBFILE_TYPE, PHOTOMETRIC, PLANES, COLOUR_MAP, SAMPLE_FORMAT = 254, 262, 284, 320, 339  # tags of TIFF
REDUCED_OR_MASK = 1 | 4  # bits of SUBFILE_TYPE
IMAGEJ_STACK = re.compile(r"^(images|channels|slices|frames)=([2-9]|\d{2,})\s", re.MULTILINE)
MOST_PAGES = 64  # looked at


def rgb_pixels(image: Image.Image, data: bytes | None = None) -> np.ndarray:
    """(h, w, 3) uint8 of an image; `data` is the file it was opened from, not yet loaded. Raises Unreadable."""
    bits = _file_bits(image, data)
    if image.mode == "F":
        raise Unreadable(f"floating-point pixels: {REMEDY}")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(image, data, bits)
    if bits > 8 and data is not None:
        return _deep_colour(image, data, bits)
    return np.array(_shallow(image), np.uint8)


def check_single(image: Image.Image) -> None:
    """Raises Unreadable for stacks: several pages or frames of which none is the tile."""
    count = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and len(image.getbands()) == 1:
        stack = IMAGEJ_STACK.search(str(image.tag_v2.get(DESCRIPTION, "")))  # type: ignore[attr-defined]
        if stack:  # ImageJ may write one directory for all planes
            raise Unreadable(f"a stack of ImageJ ({stack[0].strip()}): save the picture as RGB")
    if count < 2 or image.format == "MPO":  # a JPEG with a preview behind it
        return
    if image.format != "TIFF":
        raise Unreadable(f"an animation or stack of {count} frames: save the one that is the tile")
    sizes = [image.size]
    for page in range(1, min(count, MOST_PAGES)):
        try:
            image.seek(page)
        except Exception:  # a page of another kind is no rival of the first
            continue
        if not image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED_OR_MASK:  # type: ignore[attr-defined]
            sizes.append(image.size)
    image.seek(0)
    if sizes[1:].count(sizes[0]):
        raise Unreadable(
            f"a stack of {count} pages of {sizes[0][0]}x{sizes[0][1]} px (planes, channels or times?): "
            "save the one that is the tile as RGB"
        )
    if any(w * h > sizes[0][0] * sizes[0][1] for w, h in sizes):
        raise Unreadable("the first of its pages is not the largest: save the one that is the tile")


def _file_bits(image: Image.Image, data: bytes | None) -> int:
    """Bits a sample that the file has, before Pillow made 8 of them; raises Unreadable for signed ones."""
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        formats = image.tag_v2.get(SAMPLE_FORMAT, (1,))
        if set(formats if isinstance(formats, tuple) else (formats,)) - {1, 4}:
            raise Unreadable(f"signed or floating-point samples (SampleFormat {formats}): {REMEDY}")
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    if image.format in ("JPEG2000", "PPM"):
        return _declared(image.format, data or b"")
    raws = [raw_mode(tile) for tile in getattr(image, "tile", None) or []]
    return 16 if image.format in ("PNG", "SGI") and any(";16B" in raw for raw in raws) else 8


def _declared(kind: str, data: bytes) -> int:
    if kind == "PPM":
        fields = b" ".join(line.split(b"#")[0] for line in data[:512].splitlines()).split()
        return int(fields[3]).bit_length() if data[1:2] in b"2356" and len(fields) > 3 and fields[3].isdigit() else 8
    place = data.find(b"\xff\x4f\xff\x51")  # start of the codestream and of its size marker
    depth = data[place + 42] if 0 <= place < len(data) - 42 else 7  # of the first component
    if depth & 128:
        raise Unreadable(f"signed samples: {REMEDY}")
    return depth + 1


def _grey(image: Image.Image, data: bytes | None, bits: int) -> np.ndarray:
    """RGB of a grey image with more than 8 bits."""
    samples = np.asarray(image)
    if image.mode == "I" and image.format == "TIFF":
        raise Unreadable(f"32-bit samples on an unknown scale: {REMEDY}")
    if samples.min(initial=0) < 0:
        raise Unreadable(f"negative samples: {REMEDY}")
    samples = samples.astype(np.uint32)
    known = _known_bits(image, data, bits, samples)
    grey = to_8_bits(samples, known)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        grey = 255 - grey  # 0 is white, and Pillow inverts 8 bits only
    if "transparency" in image.info:
        grey[samples == image.info["transparency"]] = 255
    return np.repeat(grey[..., None], 3, axis=2)


def _known_bits(image: Image.Image, data: bytes | None, bits: int, samples: np.ndarray) -> int | None:
    """Bits of the scale of `samples` where the file says them."""
    if image.format == "TIFF":
        return bits_of_tiff(image.tag_v2)  # type: ignore[attr-defined]
    if image.format == "PNG":
        return bits_of_png(data or b"", samples)
    if image.format in ("JPEG2000", "PPM") and 8 < bits < 16:
        return 16  # Pillow scales these up
    return None


def _deep_colour(image: Image.Image, data: bytes, bits: int) -> np.ndarray:
    """RGB of a colour image with more than 8 bits a sample."""
    samples = _samples(image, data)
    if samples is None:
        bands = np.asarray(image)
        has_alpha = image.mode in ("RGBA", "LA")
        for part in (bands[..., :-1], bands[..., -1:]) if has_alpha else (bands,):
            check_dark(part, bits)
        return np.array(_shallow(image), np.uint8)
    count = samples.shape[2]
    has_alpha = count in (2, 4) and image.mode != "CMYK"
    colours = samples[..., : count - 1] if has_alpha else samples
    known = bits_of_png(data, colours) if image.format == "PNG" else bits_of_tiff(image.tag_v2)  # type: ignore[attr-defined]
    parts = to_8_bits(colours, known)
    if image.mode == "CMYK":
        return np.array(Image.fromarray(parts, "CMYK").convert("RGB"))
    alpha = np.full((*parts.shape[:2], 1), 255, np.uint8)
    if has_alpha:
        alpha = to_8_bits(samples[..., -1:], known)
    elif isinstance(image.info.get("transparency"), tuple):
        alpha[(samples == image.info["transparency"]).all(-1)] = 0
    three = np.broadcast_to(parts, (*alpha.shape[:2], 3))
    return np.array(_on_white(Image.fromarray(np.concatenate([three, alpha], axis=2))))


def _samples(image: Image.Image, data: bytes) -> np.ndarray | None:
    """(h, w, c) uint16 where they can be had."""
    planes = image.format == "TIFF" and image.tag_v2.get(PLANES) == 2  # type: ignore[attr-defined]
    if planes or image.format not in ("PNG", "TIFF") or not isinstance(image, ImageFile.ImageFile):
        return None
    with Image.open(io.BytesIO(data), formats=(image.format,)) as again:
        return whole_samples(image, again)


def _shallow(image: Image.Image) -> Image.Image:
    """RGB of an image of 8 bits a sample or fewer, in any mode of Pillow."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None  # without inPlace it returns the new image
        return converted
    if image.mode == "P" and image.format == "TIFF":
        return _with_colours_of_16_bits(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _with_colours_of_16_bits(image: Image.Image) -> Image.Image:
    """RGB of a TIFF with a palette. Its colours have 16 bits; where a writer put 8, Pillow sees black."""
    colours = np.array(image.tag_v2[COLOUR_MAP]).reshape(3, -1).T  # type: ignore[attr-defined]
    table = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)
    return Image.fromarray(table[np.asarray(image)])


def _on_white(layer: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
