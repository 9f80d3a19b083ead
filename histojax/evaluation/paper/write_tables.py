"""A table of the paper as CSV (a line a cell), Markdown and PNG (paper and ours side by side)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from histojax.common.files import replacing, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.paper.cells import ABOVE, AGREES, BELOW, HOLE, NO_NUMBER, NOT_COMPARED, Cell
from histojax.evaluation.paper.tables import Table, hole_lines
from histojax.report.paper_tables import draw_table, markdown_table

TINTS = {AGREES: "#D5EFD9", ABOVE: "#D6E4F7", BELOW: "#F8D9D2", HOLE: "#EEEEEE", NOT_COMPARED: "", NO_NUMBER: ""}
LEGEND = (
    (TINTS[AGREES], "agrees"),
    (TINTS[ABOVE], "above the published number"),
    (TINTS[BELOW], "below it"),
    (TINTS[HOLE], "hole: see the list of holes"),
)
CSV = ("table", "row", "column", "published", "ours", "low", "high", "spread", "tolerance", "verdict", "why")
DPI = 140


def write_all(folder: Path, table: Table) -> None:
    """Writes KEY.csv, KEY.md and KEY.png into a folder that exists; raises UserError."""
    write_table(folder / f"{table.key}.csv", CSV, (line_of(table.key, cell) for cell in table.cells))
    write_atomic(folder / f"{table.key}.md", markdown(table))
    titles, rows = _side_by_side(table)
    tints = [["", *(_tint(table, row[0], i) for i in range(len(titles) - 1))] for row in rows]
    figure = draw_table(_broken(titles), rows, tints, table.title, table.notes, LEGEND)
    with replacing(folder / f"{table.key}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def markdown(table: Table) -> str:
    """The table with its title, notes and holes."""
    titles, rows = _side_by_side(table)
    verdicts = [
        [row[0], *(text for column in table.columns for text in _verdicts(table, row[0], column))] for row in rows
    ]
    heads = [titles[0], *(t for column in table.columns for t in (f"{column}, published", "ours", "verdict"))]
    parts = [f"## {table.title}\n", markdown_table(heads, verdicts)]
    parts += ["\n".join(f"- {note}" for note in table.notes) + "\n"] if table.notes else []
    if lacking := hole_lines([table]):
        parts += ["Holes:\n", "\n".join(f"- {line}" for line in lacking) + "\n"]
    return "\n".join(parts)


def _side_by_side(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows with the published number and ours next to each other."""
    titles = ["", *(text for column in table.columns for text in (f"{column}\npublished", f"{column}\nours"))]
    rows = []
    for name in table.rows:
        row = [name]
        for column in table.columns:
            cell = table.cell(name, column)
            row += ["", ""] if cell is None else [cell.published(), _ours(table, cell)]
        rows.append(row)
    return titles, rows


def _broken(titles: Sequence[str]) -> list[str]:
    return [title or "\n" for title in titles]


def _tint(table: Table, row: str, place: int) -> str:
    """The colour of the place-th cell after the name: only ours are tinted."""
    cell = table.cell(row, table.columns[place // 2])
    return "" if cell is None or place % 2 == 0 else TINTS[cell.verdict]


def _verdicts(table: Table, row: str, column: str) -> tuple[str, str, str]:
    cell = table.cell(row, column)
    if cell is None:
        return "", "", ""
    why = f" ({cell.why})" if cell.why and cell.verdict != HOLE and cell.why != table.another else ""
    if table.optional and cell.verdict == HOLE:
        return cell.published(), "", cell.why
    return cell.published(), cell.shown(), f"{cell.verdict}{why}"


def _ours(table: Table, cell: Cell) -> str:
    return "not run" if table.optional and cell.verdict == HOLE else cell.shown()


def line_of(key: str, cell: Cell) -> list[str]:
    """A line of the CSV."""
    numbers = [cell.ours, cell.low, cell.high, cell.spread, cell.tolerance]
    texts = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
    return [key, cell.row, cell.column, cell.published(), *texts, cell.verdict, cell.why]
