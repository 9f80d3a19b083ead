"""A table as text for a README and as a picture, its cells tinted by what is said of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREY, LINE = "#555555", "#CCCCCC"
ROW_INCHES, NOTE_INCHES = 0.26, 0.17
LETTER = 0.078  # inches of a letter in a cell


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown; pipes within cells are escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    return (
        "\n".join(f"| {' | '.join(str(text).replace('|', chr(92) + '|') for text in line)} |" for line in lines) + "\n"
    )


def draw_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    tints: Sequence[Sequence[str]],
    title: str = "",
    notes: Sequence[str] = (),
    legend: Sequence[tuple[str, str]] = (),
) -> Figure:
    """The table as a figure.

    Args:
        titles: of the columns; a line break in one is kept.
        rows: texts.
        tints: a colour a cell, "" for none.
        title, notes: above and below.
        legend: (colour, what it means) below the table.
    """
    widths = [
        LETTER * max(len(line) for text in column for line in str(text).split("\n")) + 0.16
        for column in zip(titles, *rows)
    ]
    width = max(sum(widths), 6.5)
    wrapped = [line for note in notes for line in textwrap.wrap(note, int(width / 0.068))]
    heads = 1 + max(text.count("\n") for text in titles)
    table_inches = ROW_INCHES * (len(rows) + heads)
    below = NOTE_INCHES * (len(wrapped) + 1.6 * bool(legend)) + 0.15
    height = 0.45 + table_inches + below
    figure = Figure(figsize=(width + 0.4, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(-0.2, width + 0.2)
    ax.set_ylim(height, 0)
    ax.axis("off")
    ax.text(0, 0.26, title, fontsize=11, weight="bold", va="center")
    lefts = [sum(widths[:i]) for i in range(len(widths))]
    _draw_cells(ax, titles, rows, tints, lefts, widths, heads)
    at = 0.45 + table_inches + 0.14
    if legend:
        _draw_legend(ax, legend, at)
        at += 1.6 * NOTE_INCHES
    for line in wrapped:
        ax.text(0, at, line, fontsize=7.5, color=GREY, va="center")
        at += NOTE_INCHES
    return figure


def _draw_cells(
    ax: Axes,
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    tints: Sequence[Sequence[str]],
    lefts: Sequence[float],
    widths: Sequence[float],
    heads: int,
) -> None:
    top = 0.45
    for text, left, width in zip(titles, lefts, widths):
        place = (left + 0.06, "left") if left == 0 else (left + width / 2, "center")
        ax.text(place[0], top + heads * ROW_INCHES / 2, text, fontsize=8.5, weight="bold", va="center", ha=place[1])
    top += heads * ROW_INCHES
    end = lefts[-1] + widths[-1]
    ax.plot([0, end], [top, top], color="black", linewidth=0.8)
    for row, colours in zip(rows, tints):
        for text, colour, left, width in zip(row, colours, lefts, widths):
            if colour:
                ax.fill(
                    [left, left + width, left + width, left], [top, top, top + ROW_INCHES, top + ROW_INCHES], colour
                )
            place = (left + 0.06, "left") if left == 0 else (left + width / 2, "center")
            ax.text(place[0], top + ROW_INCHES / 2, text, fontsize=8.5, va="center", ha=place[1])
        top += ROW_INCHES
        ax.plot([0, end], [top, top], color=LINE, linewidth=0.5)


def _draw_legend(ax: Axes, legend: Sequence[tuple[str, str]], at: float) -> None:
    left = 0.0
    for colour, meaning in legend:
        ax.fill([left, left + 0.16, left + 0.16, left], [at - 0.07, at - 0.07, at + 0.07, at + 0.07], colour)
        ax.text(left + 0.22, at, meaning, fontsize=7.5, va="center")
        left += 0.22 + 0.072 * len(meaning) + 0.2
