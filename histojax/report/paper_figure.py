"""Scores over training steps with their intervals, and published numbers as open marks with a tolerance."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from histojax.report.curves import COLOURS, GREY


@dataclass(frozen=True)
class Line:
    """A score at some steps; low and high are NaN without an interval."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Level:
    """A published number of the line `name` at a step, known up to `tolerance`."""

    name: str
    step: int
    value: float
    tolerance: float


def draw_lines(lines: Sequence[Line], levels: Sequence[Level], title: str = "", notes: Sequence[str] = ()) -> Figure:
    """The figure; a line without points has only its published marks."""
    figure = Figure(figsize=(6.4, 4.3), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    ax = figure.subplots()
    ax.set_title(title, fontsize=10.5, loc="left", weight="bold", pad=10)
    handles = []
    for number, line in enumerate(lines):
        colour = COLOURS[number + 1]
        ax.plot(line.steps, line.values, color=colour, linewidth=1.4, marker="o", markersize=4)
        if any(math.isfinite(value) for value in line.low):
            ax.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
        handles.append(
            Line2D([], [], color=colour, marker="o", markersize=4, linewidth=1.4, label=f"{line.name}, ours")
        )
        marks = [level for level in levels if level.name == line.name]
        for level in marks:
            ax.errorbar(
                [level.step], [level.value], [level.tolerance], fmt="s", mfc="white", color=colour, markersize=6,
                capsize=3, linewidth=1, zorder=3,
            )  # fmt: skip
        if marks:
            label = f"{line.name}, published, and what agrees with it"
            handles.append(
                Line2D([], [], color=colour, marker="s", mfc="white", markersize=6, linewidth=0, label=label)
            )
    if handles:
        ax.legend(handles=handles, fontsize=8, frameon=False, loc="best")
    ax.set_xlabel(
        "\n".join(["training step", "", *(t for note in notes for t in textwrap.wrap(note, 98))]), fontsize=7.5
    )
    ax.xaxis.label.set_color(GREY)
    ax.set_ylabel("balanced accuracy, test tiles", fontsize=8.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.tick_params(labelsize=8, length=3, color=GREY)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.3)
    return figure
