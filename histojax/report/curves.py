"""The curves of a run as one picture: small panels over the training step, only those that have numbers."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from histojax.common.files import replacing
from histojax.runs.metrics import read_metrics

Rows = Sequence[Mapping[str, float]]

COLOURS = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
)  # Okabe and Ito 2008
GREY, RED = "#777777", "#C00000"
TICKS = [1, 2, 2.5, 5, 10]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One small plot: its title and {metric: name in the legend}."""

    title: str
    series: dict[str, str]
    levels: dict[str, str] = dataclasses.field(default_factory=dict)  # the same, drawn as dashed horizontal lines
    log: bool = False
    zero: bool = False  # the axis starts at 0


def save_curves(metrics: str | os.PathLike, png: str | os.PathLike, panels: Sequence[Panel], title: str = "") -> None:
    """Draws the rows of a metrics.jsonl into the picture `png`.

    Panels without numbers are left out; red lines mark rows with a number that is not finite. Raises UserError if
    the metrics cannot be read or the picture not written.
    """
    figure = draw_curves(read_metrics(metrics), panels, title)
    with replacing(png) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_curves(rows: Rows, panels: Sequence[Panel], title: str = "") -> Figure:
    """The figure of rows {"step": ..., metric: number, ...}."""
    panels = [panel for panel in panels if any(_points(rows, name) for name in panel.series)]
    columns = max(1, min(3, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.3 * columns, 2.9 * lines + 0.3), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    if title:
        figure.suptitle(title, fontsize=11)
    if not panels:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", color=GREY)
        return figure
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    broken = sorted({row["step"] for row in rows if not all(map(math.isfinite, row.values()))})
    last = max(row["step"] for row in rows)
    for ax, panel in zip(axes, panels):
        _draw(ax, panel, rows)
        _dress(ax, panel, last)
        for step in broken:
            ax.axvline(step, color=RED, linewidth=0.8, alpha=0.4, zorder=0)
    if broken:
        figure.supxlabel("red: a number of that step is not finite", fontsize=8.5, color=RED)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    return figure


def _draw(ax: Axes, panel: Panel, rows: Rows) -> None:
    drawn = {name: points for name in panel.series if (points := _points(rows, name))}
    for name, points in drawn.items():
        colour = COLOURS[list(panel.series).index(name) % len(COLOURS) if len(drawn) > 1 else 1]
        marker = "o" if len(points) <= 25 else None  # few points do not make a line
        ax.plot(*zip(*points), color=colour, linewidth=1.3, marker=marker, markersize=3, label=panel.series[name])
    for name, label in panel.levels.items():
        if level := _points(rows, name):
            ax.axhline(level[-1][1], color=GREY, linewidth=1, linestyle="--", label=label)


def _dress(ax: Axes, panel: Panel, last: float) -> None:
    ax.set_title(panel.title, fontsize=9.5, loc="left", pad=18)  # room for a legend: all axes begin at one height
    handles = ax.get_legend_handles_labels()[0]
    if len(handles) > 1:  # above the axes, where it hides nothing
        style = {"fontsize": 7.5, "frameon": False, "handlelength": 1.2, "columnspacing": 1.0, "borderpad": 0}
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=len(handles), handletextpad=0.4, **style)
    ax.set_xlabel("step", fontsize=8.5, color=GREY)
    ax.set_xlim(-0.015 * max(last, 1), 1.015 * max(last, 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICKS))
    if panel.log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=TICKS))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")
    if panel.zero:
        ax.set_ylim(0, 1.06 * max(ax.dataLim.ymax, 1e-12))
    ax.tick_params(which="both", labelsize=8, length=3, color=GREY)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.3)


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that have a finite one."""
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
