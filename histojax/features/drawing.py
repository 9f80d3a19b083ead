"""The picture of a slide whose tiles were read from itself, and the outlines of its tissue, beside its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from histojax.common.files import replacing
from histojax.slides.choose import Choice
from histojax.slides.geojson import write_geojson
from histojax.slides.picture import background_of, qc_picture
from histojax.slides.slide import Slide


@dataclass(frozen=True)
class Drawing:
    """All that the picture needs but what became of each tile, small enough to be sent to another process.

    Args:
        choice: of the tiles, without its thumbnail and mask.
        mask: the mask's bits.
        shape: of the mask.
        background: (thumbnail, scale) of `background_of`.
        mpp: micrometres per level-0 pixel.
    """

    choice: Choice
    mask: np.ndarray
    shape: tuple[int, ...]
    background: tuple[np.ndarray, float]
    mpp: float


def drawing_of(slide: Slide, choice: Choice) -> Drawing:
    """What is drawn of an opened slide."""
    bare = dataclasses.replace(choice, mask=np.zeros((0, 0), bool), thumbnail=np.zeros((0, 0, 3), np.uint8))
    return Drawing(bare, np.packbits(choice.mask), choice.mask.shape, background_of(slide, choice), slide.mpp)


def write_drawing(drawing: Drawing, name: str, reasons: Sequence[str], picture: Path, outlines: Path) -> None:
    """Writes the picture, a JPEG, and the outlines, GeoJSON; `reasons` say why tiles were left out, "" for the others.

    Raises UserError where they cannot be written.
    """
    mask = np.unpackbits(drawing.mask, count=int(np.prod(drawing.shape))).astype(bool).reshape(drawing.shape)
    choice = dataclasses.replace(drawing.choice, mask=mask)
    write_geojson(outlines, choice.mask, choice.scale)
    pixels = qc_picture(choice, reasons, name, drawing.mpp, drawing.background)
    with replacing(picture) as partial:
        Image.fromarray(pixels).save(partial, "JPEG", quality=88)
