"""The picture of what was cut from a slide: the tissue outlined, each tile in the colour of what became of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histojax.slides.choose import Choice
from histojax.slides.slide import Slide

LONG_SIDE, SHORT_SIDE_LEAST = 1400, 700  # of the slide in the picture, pixels
KEPT = (0, 140, 60)
COLOURS = {  # by reason; others get OTHER
    "blank": (120, 120, 120),
    "pen": (0, 140, 220),
    "blur": (235, 120, 0),
    "histobistro": (140, 80, 30),
    "unreadable": (215, 0, 30),
}
OTHER = (150, 0, 170)
OUTLINE, INK, FAINT = (20, 20, 20), (25, 25, 25), (110, 110, 110)
FILL = 0.28  # how much of a rejected tile's colour covers it
SMALLEST_OUTLINED = 9  # pixels of the picture; smaller tiles are filled only
MARGIN, LINE, TITLE_SIZE, TEXT_SIZE = 16, 26, 22, 16


def background_of(slide: Slide, choice: Choice) -> tuple[np.ndarray, float]:
    """(image (h, w, 3) uint8, level-0 pixels per pixel of it) to draw on: small slides are read more finely."""
    if max(choice.thumbnail.shape) >= LONG_SIDE / 2:
        return _enlarged(choice.thumbnail, choice.scale)
    return _enlarged(*slide.thumbnail(slide.mpp * max(slide.size) / LONG_SIDE))


def qc_picture(
    choice: Choice,
    reasons: Sequence[str],
    name: str,
    mpp: float,
    background: tuple[np.ndarray, float] | None = None,
) -> np.ndarray:
    """(h, w, 3) uint8, at most about 1600 pixels: the slide with its tiles, a title and a legend that counts them.

    Args:
        choice: of `choose_tiles`.
        reasons: why each of its tiles was rejected, "" for those kept; fewer than tiles if the rest is not known.
        name: of the slide.
        mpp: micrometres per level-0 pixel.
        background: of `background_of`; the thumbnail of the choice without it.
    """
    picture, scale = _enlarged(*(background or (choice.thumbnail, choice.scale)))
    _draw_tiles(picture, choice, reasons, scale)
    _draw_outline(picture, choice, scale)
    _draw_scale_bar(picture, scale * mpp)
    return _framed(picture, [name, _facts(choice, mpp)], _entries(choice, reasons))


def _enlarged(thumbnail: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """A copy whose long side is LONG_SIDE, and its scale."""
    factor = LONG_SIDE / max(thumbnail.shape[:2])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = tuple(max(1, round(side * factor)) for side in thumbnail.shape[1::-1])
    return cv2.resize(thumbnail, size, interpolation=method), scale / factor


def _draw_tiles(picture: np.ndarray, choice: Choice, reasons: Sequence[str], scale: float) -> None:
    """Rejected tiles tinted, then the outlines of all, those of kept ones on top."""
    corners = np.round(choice.coords / scale).astype(int).tolist()
    ends = np.round((choice.coords + choice.footprint) / scale).astype(int).tolist()
    small = choice.footprint / scale < SMALLEST_OUTLINED
    boxes = [(tuple(a), tuple(b), reason) for a, b, reason in zip(corners, ends, reasons)]
    tint = picture.copy()
    for start, end, reason in boxes:
        if reason or small:
            cv2.rectangle(tint, start, (end[0] - 1, end[1] - 1), _colour(reason), -1)
    cv2.addWeighted(tint, FILL, picture, 1 - FILL, 0, dst=picture)
    if small:
        return
    thick = 2 if choice.footprint / scale > 24 else 1
    for start, end, reason in sorted(boxes, key=lambda box: box[2] == ""):
        inner = thick // 2  # neighbours' outlines lie side by side
        cv2.rectangle(
            picture,
            (start[0] + inner, start[1] + inner),
            (end[0] - 1 - inner, end[1] - 1 - inner),
            _colour(reason),
            thick,
        )


def _colour(reason: str) -> tuple[int, int, int]:
    return COLOURS.get(reason, OTHER) if reason else KEPT


def _draw_outline(picture: np.ndarray, choice: Choice, scale: float) -> None:
    """The edge of the tissue, smooth at the picture's resolution."""
    if choice.mask.all():
        return
    size = tuple(max(1, round(side * choice.scale / scale)) for side in choice.mask.shape[1::-1])
    share = cv2.resize(choice.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    rounding = min(max(0.5, choice.scale / scale / 2), 12)  # of the mask's square pixels
    inside = (cv2.GaussianBlur(share, (0, 0), rounding) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, OUTLINE, 2, cv2.LINE_AA)


def _draw_scale_bar(picture: np.ndarray, mpp: float) -> None:
    """A bar of a round length, at most a fifth of the picture, in its lower left corner."""
    most = picture.shape[1] * mpp / 5
    length = next((n for n in (10_000, 5000, 2000, 1000, 500, 200, 100, 50, 20) if n <= most), 10)
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length} um"
    left, bottom, width = MARGIN, picture.shape[0] - MARGIN, round(length / mpp)
    wide = width + 24, 52
    corner = picture[bottom - wide[1] : bottom, left : left + wide[0]]
    corner[:] = corner // 5 + 204  # a pale plate, whatever is below
    cv2.rectangle(picture, (left + 12, bottom - 16), (left + 12 + width, bottom - 11), INK, -1)
    drawn = Image.fromarray(corner)
    ImageDraw.Draw(drawn).text((12, 8), words, INK, _font(TEXT_SIZE))
    corner[:] = np.asarray(drawn)


def _facts(choice: Choice, mpp: float) -> str:
    """Plain letters: Pillow's own font has no Greek ones."""
    facts = f"{mpp:.4g} um/px  |  tiles of {choice.footprint * mpp:.4g} um  |  "
    if choice.mask.all():
        return facts + f"tissue: {choice.mask_from}"
    area = float(choice.mask.sum()) * (choice.scale * mpp / 1000) ** 2
    return facts + f"tissue {area:.3g} mm2: {choice.mask_from}"


def _entries(choice: Choice, reasons: Sequence[str]) -> list[tuple[str, tuple[int, int, int] | None]]:
    """(text, colour of its box) of the legend; reasons of the grid have no box, as their tiles are not drawn."""
    counts = Counter(reasons)
    entries: list[tuple[str, tuple[int, int, int] | None]] = [(f"kept {counts.pop('', 0):,}", KEPT)]
    entries += [(f"{reason} {count:,}", _colour(reason)) for reason, count in sorted(counts.items())]
    return entries + [(f"{reason} {count:,}", None) for reason, count in choice.rejected.items()]


def _framed(
    picture: np.ndarray, titles: list[str], entries: list[tuple[str, tuple[int, int, int] | None]]
) -> np.ndarray:
    """The picture on white, below its title and legend; narrow ones get a wider frame so that the text fits."""
    width = max(picture.shape[1], SHORT_SIDE_LEAST) + 2 * MARGIN
    lines = [line for i, title in enumerate(titles) for line in _wrapped(title, _title_font(i), width - 2 * MARGIN)]
    head = Image.new("RGB", (width, 2000), "white")
    draw = ImageDraw.Draw(head)
    y = MARGIN
    for text, font in lines:
        draw.text((MARGIN, y), text, INK, font)
        y += LINE + 2
    y = _draw_legend(draw, entries, width, y + 6) + MARGIN
    frame = np.full((y + picture.shape[0] + MARGIN, width, 3), 255, np.uint8)
    frame[:y] = np.asarray(head)[:y]
    left = (width - picture.shape[1]) // 2
    frame[y : y + picture.shape[0], left : left + picture.shape[1]] = picture
    cv2.rectangle(frame, (left - 1, y - 1), (left + picture.shape[1], y + picture.shape[0]), (190, 190, 190), 1)
    return frame


def _draw_legend(draw: ImageDraw.ImageDraw, entries: list, width: int, y: int) -> int:
    """Where the legend ends."""
    x, font = MARGIN, _font(TEXT_SIZE)
    for text, colour in entries:
        box = 22 if colour else 0
        needed = box + math.ceil(font.getlength(text)) + 22
        if x + needed > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + LINE
        if colour:
            draw.rectangle((x, y + 3, x + 14, y + 17), outline=colour, width=3)
        draw.text((x + box, y), text, INK if colour else FAINT, font)
        x += needed
    return y + LINE


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in lines that fit, broken at spaces, and inside of words that are longer than a line."""
    lines, line = [], ""
    for word in text.split(" "):
        tried = f"{line} {word}" if line else word
        if font.getlength(tried) <= width:
            line = tried
            continue
        lines += [line] if line else []
        while font.getlength(word) > width:
            fits = max(1, int(len(word) * width / font.getlength(word)) - 1)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [(each, font) for each in [*lines, line]]


def _title_font(number: int) -> ImageFont.FreeTypeFont:
    return _font(TEXT_SIZE if number else TITLE_SIZE)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as long as a size is asked for
    return font
