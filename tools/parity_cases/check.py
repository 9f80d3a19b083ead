"""One comparison: what was compared, how far apart it was, how far it may be, and whether it held."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Check:
    """A line of the report.

    Args:
        name: the golden file's name without its ending, then the part of it.
        what: the quantity.
        max_abs, max_rel: the widest gaps, whatever the tolerance looks at.
        tolerance: in words, as `limit` may be a multiple of something ("2e-05 rel": of each expected value).
        measured: what is held against `limit`: at most that, or more than it with `at_least`.
        compared: False for what was left out, for the reason that `what` says; it neither held nor failed.
        arrays: of something left out, the number of arrays.
    """

    name: str
    what: str
    max_abs: float
    max_rel: float
    tolerance: str
    measured: float
    limit: float
    ok: bool
    compared: bool = True
    at_least: bool = False
    arrays: int = 0

    @property
    def share(self) -> float:
        """How much of the tolerance is used up: above 1 it failed."""
        small, large = (self.limit, self.measured) if self.at_least else (self.measured, self.limit)
        if not large:
            return 0.0 if small == 0 else math.inf
        return small / large

    def line(self) -> str:
        """One line for the terminal."""
        if not self.compared:
            return f"skip {self.name:<44} {self.what}"
        verdict = "ok  " if self.ok else "FAIL"
        if math.isinf(self.measured):
            return f"{verdict} {self.name:<44} {self.what}"
        held = f"{self.measured:.1e} {'above' if self.at_least else 'of'} {self.limit:g} ({self.tolerance})"
        return f"{verdict} {self.name:<44} {self.what:<44} abs {self.max_abs:.1e} rel {self.max_rel:.1e}, {held}"

    def as_dict(self) -> dict[str, Any]:
        """For the certificate."""
        fields = dataclasses.asdict(self)
        for name in ("compared", "arrays"):
            del fields[name]
        return fields


def compare(
    name: str, what: str, ours: Any, expected: Any, *, atol: float = 0.0, rtol: float = 0.0, norm: float = 0.0
) -> Check:
    """|ours - expected| <= atol + rtol * |expected|, element by element; with `norm`, the Euclidean norm of the
    difference <= atol + norm * that of `expected`.

    Without a tolerance they must be equal. Other shapes and anything not finite fail.
    """
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    words = (f"{atol:g}" if atol else "", f"{rtol:g} rel" if rtol else "", f"{norm:g} of norm" if norm else "")
    tolerance = " + ".join(w for w in words if w) or "equal"
    if ours.shape != expected.shape:
        return failed(name, f"{what}: shape {ours.shape}, expected {expected.shape}", tolerance)
    if not ours.size:
        return Check(name, what + " (empty)", 0.0, 0.0, tolerance, 0.0, 0.0, True)
    gap, size = np.abs(ours - expected), np.abs(expected)
    if norm:
        gaps, sizes = np.linalg.norm(gap), np.linalg.norm(size)
    else:
        gaps, sizes = gap, size
    measured, limit = _held(gaps, sizes, atol, rtol or norm)
    scale = np.maximum(size, size.max() * 1e-3 + 1e-30)
    ok = bool(measured <= limit)
    return Check(name, what, float(gap.max()), float((gap / scale).max()), tolerance, measured, limit, ok)


def _held(gap: Any, size: Any, atol: float, part: float) -> tuple[float, float]:
    """(measured, limit) of gap <= atol + part * size: the gap, its part of the size, or of the sum of both terms."""
    if not part:
        return float(np.max(gap)), atol
    allowed = atol + part * size
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(gap == 0, 0.0, gap / allowed)
    return (float(np.max(shares)), 1.0) if atol else (float(np.max(shares)) * part, part)


def same(name: str, what: str, differences: Any) -> Check:
    """Nothing may differ; `differences` names what does."""
    listed = [str(d) for d in differences]
    shown = ": " + ", ".join(listed[:4]) + (" ..." if len(listed) > 4 else "") if listed else ""
    return Check(name, what + shown, float(len(listed)), 0.0, "no difference", float(len(listed)), 0.0, not listed)


def bounded(
    name: str, what: str, measured: float, limit: float, tolerance: str, gap: float | None = None, rel: float = 0.0
) -> Check:
    """A statistic that may be `limit` at most; `gap` is the largest difference behind it, `rel` a relative one."""
    ok = bool(measured <= limit)
    return Check(name, what, float(measured if gap is None else gap), rel, tolerance, float(measured), limit, ok)


def skipped(name: str, why: str, arrays: int = 0) -> Check:
    """What was found and not compared, so that it is seen."""
    return Check(name, why, 0.0, 0.0, "", 0.0, 0.0, True, compared=False, arrays=arrays)


def failed(name: str, why: str, tolerance: str = "none") -> Check:
    """What could not be compared and should have been."""
    return Check(name, why, math.inf, math.inf, tolerance, math.inf, 0.0, False)


def worst(name: str, what: str, checks: list[Check]) -> list[Check]:
    """The comparisons of many arrays as one line: the widest gaps, and the array that comes closest to its limit,
    which has its own tolerance. No line without comparisons."""
    if not checks:
        return []
    broken = [c.what for c in checks if not c.ok]
    label = f"{what} ({len(checks)})" + (": " + ", ".join(broken[:4]) if broken else "")
    nearest = max(checks, key=lambda c: (not c.ok, c.share))
    largest = max(c.max_abs for c in checks), max(c.max_rel for c in checks)
    tolerance = f"{nearest.tolerance}, at {nearest.what}"
    return [Check(name, label, *largest, tolerance, nearest.measured, nearest.limit, not broken)]
