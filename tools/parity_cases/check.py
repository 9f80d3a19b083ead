"""One comparison, and reading golden files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Check:
    """What was compared, how far apart it was, and how far it may be."""

    name: str
    what: str
    max_abs: float
    max_rel: float
    tolerance: str
    ok: bool
    compared: bool = True  # False: left out, for the reason that `what` says; neither held nor failed

    def line(self) -> str:
        """One line for the terminal."""
        if not self.compared:
            return f"skip {self.name:<44} {self.what}"
        verdict = "ok  " if self.ok else "FAIL"
        gaps = f"abs {self.max_abs:.1e} rel {self.max_rel:.1e} ({self.tolerance})"
        return f"{verdict} {self.name:<44} {self.what:<44} {gaps}"

    def as_dict(self) -> dict[str, Any]:
        """For the certificate."""
        return dataclasses.asdict(self)


def compare(
    name: str, what: str, ours: Any, expected: Any, *, atol: float = 0.0, rtol: float = 0.0, norm: float = 0.0
) -> Check:
    """|ours - expected| <= atol + rtol * |expected| + norm * ||expected||_2, element by element.

    Arrays of different shapes, empty ones against full ones, and anything not finite fail.
    """
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    tolerance = " + ".join(
        t for t, v in ((f"{atol:g}", atol), (f"{rtol:g} rel", rtol), (f"{norm:g} of norm", norm)) if v
    )
    if ours.shape != expected.shape:
        return Check(name, f"{what}: shape {ours.shape}, expected {expected.shape}", np.inf, np.inf, tolerance, False)
    if not ours.size:
        return Check(name, what + " (empty)", 0.0, 0.0, tolerance or "equal", True)
    gap = np.abs(ours - expected)
    limit = atol + rtol * np.abs(expected) + norm * np.linalg.norm(expected)
    if norm:
        ok = bool(np.linalg.norm(ours - expected) <= limit.max())
    else:
        ok = bool(np.all(gap <= limit))
    scale = np.maximum(np.abs(expected), np.abs(expected).max() * 1e-3 + 1e-30)
    return Check(name, what, float(gap.max()), float((gap / scale).max()), tolerance or "equal", ok)


def skipped(name: str, why: str) -> Check:
    """What was found and not compared, so that it is seen."""
    return Check(name, why, 0.0, 0.0, "", True, compared=False)


def failed(name: str, why: str) -> Check:
    """What could not be compared and should have been."""
    return Check(name, why, np.inf, np.inf, "", False)


def worst(name: str, what: str, checks: list[Check]) -> Check:
    """The comparisons of many arrays of one kind as one line: the widest gaps, and the names of those that fail."""
    failed = [c.what for c in checks if not c.ok]
    label = f"{what} ({len(checks)})" + (": " + ", ".join(failed[:4]) if failed else "")
    largest = max(c.max_abs for c in checks), max(c.max_rel for c in checks)
    return Check(name, label, *largest, checks[0].tolerance, not failed)


def archives(folder: Path) -> Iterator[tuple[Path, Any, dict]]:
    """(path, open npz, its meta) of every .npz below the folder's top level, sorted."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            yield path, data, json.loads(str(data["meta_json"])) if "meta_json" in data else {}


def below(data: Any, prefix: str) -> dict[str, np.ndarray]:
    """Arrays whose name begins with `prefix`, by the rest of the name."""
    return {k[len(prefix) :]: data[k] for k in data.files if k.startswith(prefix)}
