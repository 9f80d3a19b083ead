"""A number of ours beside one of the paper's: whether it agrees, or why nothing can be said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from histojax.evaluation.paper.numbers import PRINTED

AGREES, ABOVE, BELOW = "agrees", "above", "below"
NO_NUMBER = "no published number"
NOT_COMPARED, HOLE = "not compared", "hole"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        row, column: where.
        paper: the published number, None if it is not known to us.
        ours: NaN for a hole.
        low, high: of our interval, NaN without one.
        spread: standard deviation over folds, NaN without folds.
        tolerance: that was used.
        verdict: one of the six above.
        why: in words, where there is something to say.
        digits: decimals of ours that are shown.
        printed: the published number as it is printed.
    """

    row: str
    column: str
    paper: float | None
    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    tolerance: float = math.nan
    verdict: str = HOLE
    why: str = ""
    digits: int = 3
    printed: str = ""

    def published(self) -> str:
        """The published number as it is printed; "" where it is not known."""
        return self.printed or ("" if self.paper is None else f"{self.paper:.2f}")

    def shown(self) -> str:
        """Ours with what surrounds it: "0.876 (0.861-0.889)"; "hole" without a number."""
        if math.isnan(self.ours):
            return HOLE
        text = f"{self.ours:.{self.digits}f}"
        if math.isfinite(self.spread):
            text += f" ± {self.spread:.{self.digits}f}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            text += f" ({self.low:.{self.digits}f}-{self.high:.{self.digits}f})"
        return text


def verdict(paper: float | None, ours: float, tolerance: float, another: str = "") -> tuple[str, str]:
    """(verdict, why) of a score; `another` says why ours is one of something else, "" if it is not."""
    if math.isnan(ours):
        return HOLE, ""
    if another:
        return NOT_COMPARED, another
    if paper is None:
        return NO_NUMBER, ""
    gap = ours - paper
    if abs(gap) <= max(tolerance, PRINTED) + 1e-9:
        return AGREES, f"{gap:+.3f}"
    return (ABOVE if gap > 0 else BELOW), f"{gap:+.3f}"
