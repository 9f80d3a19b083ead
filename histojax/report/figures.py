"""Figures of an evaluation, drawn from plain arrays and returned as PNG files in memory.

Each returns a `Drawn`: the bytes, and the width in CSS pixels at which its letters have their size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histojax.report.curves import COLOURS, GREY

SHARP = 2  # pixels of the file per CSS pixel
CSS_DPI = 96
MANY = (*COLOURS[1:], "#E69F00", "#7F3C8D", "#8C564B", "#111111", "#A5AA99", "#11A579")  # of classes
MOST_POINTS = 6000  # of a scatter plot; more hide one another
MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class Drawn:
    """A picture: the bytes of a PNG and its width in CSS pixels."""

    png: bytes
    width: int


@dataclass(frozen=True)
class Curve:
    """A line of a figure: (n,) x and y, its name in the legend, colour number, and how it is drawn."""

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    colour: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Bar:
    """One score: its label, the value, the ends of its interval (NaN without one), and the number of its colour."""

    label: str
    value: float
    low: float = np.nan
    high: float = np.nan
    colour: int = 0


def colour(number: int) -> str:
    """Of a class or a model, the same in all figures."""
    return MANY[number % len(MANY)]


def roc_figure(curves: Sequence[Curve], title: str = "") -> Drawn:
    """Curves of x = false and y = true positive rate, with the diagonal of chance."""
    figure, ax = _axes(3.7, 3.75 + 0.19 * _legend_rows(curves), title)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    for one in curves:
        style: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.35} if one.faint else {"linewidth": 1.6}
        ax.plot(one.x, one.y, color=colour(one.colour), label=one.name or None, **style)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    _labels(ax, "false positive rate", "true positive rate")
    _legend_below(ax, 1)
    return _drawn(figure)


def confusion_figure(matrix: np.ndarray, classes: Sequence[str], title: str = "") -> Drawn:
    """Counts (C, C) of true (rows) and predicted (columns) classes, coloured by their share of the row."""
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = max(3.0, 0.52 * count + 1.4)
    figure, ax = _axes(side + 0.4, side, title)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= 12 else 6.5
    if count <= 30:
        for row, column in np.ndindex(count, count):
            ink = "white" if share[row, column] > 0.55 else "#1b1f24" if matrix[row, column] else "#aab2ba"
            ax.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=size, color=ink)
    names = [_short(name) for name in classes]
    slanted = max(map(len, names), default=0) > 5
    ax.set_xticks(range(count), names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    ax.set_yticks(range(count), names)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=8.5, labelcolor="#1b1f24")
    _labels(ax, "predicted", "true")
    return _drawn(figure)


def calibration_figure(
    confidence: np.ndarray, right: np.ndarray, title: str = "", bins: int = 10, note: str = ""
) -> Drawn:
    """How often predictions (n,) of a stated probability (n,) were right, and how many there are of each.

    The bins are equal parts of the range from 0 to 1; the vertical bars are 95 % Wilson intervals, of independent
    units.
    """
    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    ax, below = figure.subplots(2, 1, height_ratios=[3.4, 1], sharex=True)
    _dress(ax, title)
    _dress(below)
    which = np.clip((np.asarray(confidence) * bins).astype(int), 0, bins - 1)
    edges = np.linspace(0, 1, bins + 1)
    counts = np.bincount(which, minlength=bins)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    there = np.flatnonzero(counts)
    hits = np.bincount(which, np.asarray(right, float), bins)[there]
    stated = np.bincount(which, confidence, bins)[there] / counts[there]
    low, high = _wilson(hits, counts[there])
    ax.vlines(stated, low, high, color=colour(0), linewidth=1, alpha=0.6)
    ax.plot(stated, hits / counts[there], "o-", color=colour(0), markersize=4, linewidth=1.4)
    ax.set(xlim=(0, 1), ylim=(0, 1.01))
    _labels(ax, "", "share that was right")
    below.bar(edges[:-1], counts, 1 / bins, align="edge", color=colour(0), alpha=0.45, edgecolor="white")
    _labels(below, note or "stated probability of the predicted class", "units")
    return _drawn(figure)


def bars_figure(bars: Sequence[Bar], title: str = "", chance: float | None = None) -> Drawn:
    """Scores with their intervals, one a line; `chance` is marked by a dashed line."""
    figure, ax = _axes(6.2, 0.9 + 0.27 * len(bars), title)
    for row, one in enumerate(reversed(bars)):
        if np.isfinite(one.low) and np.isfinite(one.high):
            ax.plot([one.low, one.high], [row, row], color=colour(one.colour), linewidth=2.4, alpha=0.45)
        ax.plot([one.value], [row], "o", color=colour(one.colour), markersize=5.5)
        ax.annotate(f"{one.value:.3f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    if chance is not None:
        ax.axvline(chance, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(bars)), [_short(one.label, 44) for one in reversed(bars)])
    ax.set_ylim(-0.6, len(bars) - 0.4)
    ax.tick_params(axis="y", length=0, labelsize=9, labelcolor="#1b1f24")
    ax.grid(axis="x", linewidth=0.5, alpha=0.3)
    return _drawn(figure)


def lines_figure(
    curves: Sequence[Curve], x: str, y: str, title: str = "", log_x: bool = False, points: bool = True
) -> Drawn:
    """Plain curves over x; NaN are left out."""
    figure, ax = _axes(3.7, 3.0 + 0.1 * _legend_rows(curves), title)
    for one in curves:
        style: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.4} if one.faint else {"linewidth": 1.5}
        marker = "o" if points and len(one.x) <= 25 else None
        ax.plot(one.x, one.y, marker=marker, markersize=3.5, color=colour(one.colour), label=one.name or None, **style)
    if log_x:
        ax.set_xscale("log", base=2)
        ticks = sorted({float(value) for one in curves for value in one.x})
        ax.set_xticks(ticks, [f"{value:g}" for value in ticks])
    ax.grid(axis="y", linewidth=0.5, alpha=0.3)
    _labels(ax, x, y)
    _legend_below(ax, 2)
    return _drawn(figure)


def scatter_figure(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str = "", axes: tuple[str, str] = ("", "")
) -> Drawn:
    """Points (n, 2) in the colours of their labels (n,) int, numbers of `names`; at most MOST_POINTS."""
    rows = 1 + (sum(len(_short(name)) + 6 for name in names) // 62 if len(names) > 1 else 0)
    figure, ax = _axes(5.0, 4.5 + 0.19 * rows, title)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(points))[:MOST_POINTS]  # mixed, so that no class lies on top of all others
    size = float(np.clip(6000 / max(len(chosen), 1), 4, 30))
    for number, name in enumerate(names):
        ax.scatter([], [], s=26, color=colour(number), marker=MARKERS[number // len(MANY)], label=_short(name))
    for marker in range(1 + (len(names) - 1) // len(MANY)):
        some = chosen[labels[chosen] // len(MANY) == marker]
        shown = [colour(int(label)) for label in labels[some]]
        ax.scatter(
            points[some, 0],
            points[some, 1],
            s=size,
            c=shown,
            marker=MARKERS[marker % len(MARKERS)],
            alpha=0.65,
            linewidths=0,
        )
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    _labels(ax, *axes)
    if 1 < len(names) <= 30:
        _legend_below(ax, _fitting(names))
    return _drawn(figure)


def agreement_figure(truth: np.ndarray, predicted: np.ndarray, title: str = "", name: str = "") -> Drawn:
    """Predicted over true numbers (n,), with the diagonal where both are equal."""
    figure, ax = _axes(3.7, 3.7, title)
    both = np.concatenate([truth, predicted])
    ends = [float(both.min()), float(both.max())]
    ax.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="--")
    ax.scatter(truth, predicted, s=float(np.clip(3000 / len(truth), 4, 24)), color=colour(0), alpha=0.6, linewidths=0)
    _labels(ax, f"true {name}".strip(), f"predicted {name}".strip())
    return _drawn(figure)


def survival_figure(
    times: np.ndarray, events: np.ndarray, parts: Sequence[tuple[str, np.ndarray]], title: str = ""
) -> Drawn:
    """Kaplan-Meier curves of parts (name, (n,) bool) of the patients with their times (n,) and events (n,) 0 or 1."""
    figure, ax = _axes(5.0, 4.0, title)
    for number, (name, mask) in enumerate(parts):
        x, y = kaplan_meier(times[mask], events[mask])
        ax.step(x, y, where="post", color=colour(number), linewidth=1.6, label=f"{name} (n = {int(mask.sum())})")
        seen = np.sort(times[mask & (events == 0)])
        ax.plot(seen, y[np.searchsorted(x, seen, side="right") - 1], "|", color=colour(number), markersize=6)
    ax.set_ylim(0, 1.02)
    _labels(ax, "time", "share without event")
    _legend_below(ax, 2)
    return _drawn(figure)


def kaplan_meier(times: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) times from 0 on and the share (k,) without event from each on (Kaplan and Meier 1958)."""
    steps = np.unique(times)
    at_risk = (times[None] >= steps[:, None]).sum(1)
    died = ((times[None] == steps[:, None]) & (events[None] == 1)).sum(1)
    share = np.cumprod(1 - died / np.maximum(at_risk, 1))
    return np.concatenate([[0.0], steps]), np.concatenate([[1.0], share])


# shared


def _wilson(hits: np.ndarray, counts: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a share (Wilson 1927)."""
    share = hits / counts
    middle = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = z / (1 + z**2 / counts) * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2))
    return middle - half, middle + half


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    _dress(ax, title)
    return figure, ax


def _dress(ax: Axes, title: str = "") -> None:
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#aab2ba")
    ax.tick_params(labelsize=8.5, length=3, color="#aab2ba", labelcolor=GREY)


def _labels(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=9, color="#444444")
    ax.set_ylabel(y, fontsize=9, color="#444444")


def _legend_rows(curves: Sequence[Curve]) -> int:
    return sum(bool(one.name) for one in curves)


def _fitting(names: Sequence[str]) -> int:
    return int(np.clip(62 // (max(len(_short(name)) for name in names) + 6), 1, 5))


def _legend_below(ax: Axes, columns: int) -> None:
    if ax.get_legend_handles_labels()[0]:
        figure: Any = ax.figure
        figure.legend(
            loc="outside lower left", ncols=columns, fontsize=8.5, frameon=False, handlelength=1.4, columnspacing=1.2
        )


def _short(name: str, most: int = 24) -> str:
    """A name that fits into a figure; $ would be read as mathematics."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("$", r"\$")
    return text if len(text) <= most else text[: most - 1] + "…"


def _drawn(figure: Figure) -> Drawn:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=CSS_DPI * SHARP, metadata={"Software": None})
    return Drawn(file.getvalue(), round(figure.get_figwidth() * CSS_DPI))
