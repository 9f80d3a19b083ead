"""The levels of a slide: how they lie on level 0, and which of them serves a resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROPORTIONS, MOST_ROUNDED_PX = 0.03, 2  # how far a level's height may be from what its width lets expect
FINE_ENOUGH = 1.02  # a level may be this much coarser than asked: enlarging by 2 % shows in no tile


@dataclass(frozen=True)
class Level:
    """One resolution of a slide; `ratio` is level-0 px per level px along x and y, `downsample` their mean."""

    width: int
    height: int
    downsample: float
    ratio: tuple[float, float] = (0.0, 0.0)


def make_levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of these (width, height), finest first.

    Scanners and vips shrink by a whole number and drop the pixels that are left over: where width and height of a level
    are those of level 0 divided by the same whole number, give or take a pixel, that number is its downsample. Taking
    the quotient of the sizes instead would be off by up to one level px at the far edge. Otherwise the level shows all
    of level 0, and each axis has the quotient as its ratio.
    """
    (width, height), levels = sizes[0], []
    for w, h in sizes:
        ratio = width / w, height / h
        whole = round(sum(ratio) / 2)
        if abs(width - whole * w) < whole and abs(height - whole * h) < whole:
            ratio = float(whole), float(whole)
        levels.append(Level(w, h, sum(ratio) / 2, ratio))
    return tuple(levels)


def choose_level(levels: Sequence[Level], downsample: float) -> int:
    """The coarsest level that is at most `downsample`, give or take 2 %: the next finer one; 0 if all are coarser."""
    fine = (i for i, level in enumerate(levels) if level.downsample <= downsample * FINE_ENOUGH)
    return max((i for i in fine if same_picture(levels[0], levels[i])), default=0)


def same_picture(whole: Level, level: Level) -> bool:
    """Whether a level has the proportions of level 0; one that has others is a macro image or another crop."""
    expected = whole.height * level.width / whole.width
    return abs(level.height - expected) <= max(MOST_ROUNDED_PX, PROPORTIONS * expected)
