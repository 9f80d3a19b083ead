"""Which of several models can be told apart: scores with intervals, and bars over those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histojax.report.curves import COLOURS, GREY

LINE, INK = 0.34, "#222222"  # inches a model


@dataclass(frozen=True)
class Panel:
    """One table: its title, models from the best on, and (first, last) of neighbours that were not told apart."""

    title: str
    metric: str
    names: Sequence[str]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    together: Sequence[tuple[int, int]]


def separation_figure(panels: Sequence[Panel], note: str = "") -> Figure:
    """A panel below the other; a bar at the right joins models of which no two were told apart."""
    heights = [LINE * len(panel.names) + 0.85 for panel in panels]
    figure = Figure(figsize=(7.2, sum(heights) + 0.3 * bool(note)), layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels):
        _draw(ax, panel)
    if note:
        figure.supxlabel(note, fontsize=8, color=GREY)
    return figure


def _draw(ax: Axes, panel: Panel) -> None:
    count = len(panel.names)
    for row, (value, low, high) in enumerate(zip(panel.values, panel.lows, panel.highs)):
        ax.plot([low, high], [row, row], color=COLOURS[1], linewidth=2.2, alpha=0.4, solid_capstyle="butt")
        ax.plot(value, row, "o", color=COLOURS[1], markersize=5)
        ax.annotate(
            f"{value:.3f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK
        )
    for place, (first, last) in enumerate(panel.together):
        x = 1.11 + 0.025 * place
        ax.plot(
            [x, x],
            [first - 0.3, last + 0.3],
            transform=ax.get_yaxis_transform(),
            color=INK,
            linewidth=2.6,
            clip_on=False,
            solid_capstyle="butt",
        )
    ax.set_yticks(range(count), panel.names)
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_title(panel.title, fontsize=9.5, loc="left")
    ax.set_xlabel(panel.metric.replace("_", " "), fontsize=8.5, color=GREY)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.tick_params(axis="x", labelsize=8, length=3, color=GREY)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", linewidth=0.5, alpha=0.3)
