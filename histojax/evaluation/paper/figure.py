"""Figure 2 of the paper: score over training iterations, from the weights that a training left at several steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histojax.common.errors import UserError
from histojax.common.files import expanded, replacing, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.paper.cells import Cell, verdict
from histojax.evaluation.paper.numbers import FIGURE_2, PATCH, TABLE_2, Column, Curve
from histojax.evaluation.paper.write_tables import CSV, DPI, line_of
from histojax.evaluation.results import Results
from histojax.report.paper_figure import Level, Line, draw_lines
from histojax.report.paper_tables import markdown_table
from histojax.weights.licence import CARD, card_beside

SHOWN = tuple(column for column in TABLE_2 if column.metric == "balanced_accuracy")
NOTES = (
    "Paper: the weights before training (step 0) and those that were released; its curves are a picture, so the points "
    "between are a hole.",
    "No step is chosen here: the one with the best score on the test tiles would be chosen on what reports it.",
)


@dataclass(frozen=True)
class Point:
    """Weights of a training at a step: `path` is what load_encoder takes."""

    step: int
    path: Path

    @property
    def label(self) -> str:
        """Name of its row, and with it of its folders."""
        return f"step {self.step:07d}"


def points_of(run: str) -> list[Point]:
    """The steps of a training with weights of their own: exports (export.steps), and whole checkpoints between them.

    Raises UserError for a folder that is no training's, and for one without any weights.
    """
    folder = expanded(run)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{run}: not the folder of a training (it has no config.json); give a --workdir of histojax train"
        )
    found = {int(path.name): path for path in _checkpoints(folder)}
    export = folder / "export"
    for path in [export, *sorted(export.glob("step_*"))]:
        step = card_beside(path).get("steps") if (path / CARD).is_file() else None
        if isinstance(step, int):
            found[step] = path
    if not found:
        raise UserError(f"{run}: holds no exported weights and no checkpoint yet; set export.steps, or let it go on")
    return [Point(step, path) for step, path in sorted(found.items())]


def _checkpoints(folder: Path) -> list[Path]:
    inner = folder / "checkpoints"
    if not inner.is_dir():
        return []
    found = [path for path in inner.iterdir() if re.fullmatch(r"\d+", path.name) and (path / "state").is_dir()]
    return [path for path in found if (path / "_CHECKPOINT_METADATA").is_file()]


def curve_of(row: str) -> Curve | None:
    """What the paper tells of the curve of a row, None if nothing."""
    return next((curve for curve in FIGURE_2 if curve.row == row), None)


def cells_of(points: Mapping[int, Results | str], row: str, another: str = "") -> list[Cell]:
    """A cell for each step and column of Figure 2; `points` are {step: results, or why there are none}, 0: before.

    The paper's points are left out where there is something to show that is not compared with it (`another`).
    """
    curve = None if another and any(not isinstance(found, str) for found in points.values()) else curve_of(row)
    cells = []
    for step in sorted({*points, *((0, curve.step) if curve else ())}):
        for column in SHOWN:
            cells.append(
                _cell(step, column, _paper(curve, step, column), points.get(step, "no weights of it"), another)
            )
    return cells


def _paper(curve: Curve | None, step: int, column: Column) -> float | None:
    if curve is None or step not in (0, curve.step):
        return None
    return PATCH[curve.before if step == 0 else curve.row][TABLE_2.index(column)]


def _cell(step: int, column: Column, paper: float | None, results: Results | str, another: str) -> Cell:
    name, tolerance = f"step {step:,}", column.trained if step else column.tolerance
    if isinstance(results, str):
        return Cell(name, column.title, paper, tolerance=tolerance, why=results)
    score = results.score(column.evaluator, column.metric)
    if score is None:
        return Cell(name, column.title, paper, tolerance=tolerance, why=f"no {column.metric} of {column.evaluator}")
    said, why = verdict(paper, score.value, tolerance, another)
    return Cell(name, column.title, paper, score.value, score.low, score.high, math.nan, tolerance, said, why)


def write_figure(folder: Path, cells: Sequence[Cell], title: str, notes: Sequence[str] = ()) -> None:
    """Writes figure2.csv, .md and .png; raises UserError."""
    notes = (*NOTES, *notes)
    write_table(folder / "figure2.csv", CSV, (line_of("figure2", cell) for cell in cells))
    rows = [[c.row, c.column, c.published(), c.shown(), f"{c.verdict}{f' ({c.why})' if c.why else ''}"] for c in cells]
    table = markdown_table(["step", "score", "published", "ours", "verdict"], rows)
    said = "\n".join(f"- {note}" for note in notes)
    write_atomic(folder / "figure2.md", f"## {title}\n\n![Figure 2](figure2.png)\n\n{table}\n{said}\n")
    figure = draw_lines(*_drawn(cells), title=title, notes=notes)
    with replacing(folder / "figure2.png") as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def _drawn(cells: Sequence[Cell]) -> tuple[list[Line], list[Level]]:
    """The lines of ours and the marks of the paper's, a column each."""
    lines, levels = [], []
    for column in SHOWN:
        mine = [cell for cell in cells if cell.column == column.title]
        known = [cell for cell in mine if not math.isnan(cell.ours)]
        lines.append(
            Line(
                column.title,
                [_step(cell) for cell in known],
                [cell.ours for cell in known],
                [cell.low for cell in known],
                [cell.high for cell in known],
            )
        )
        levels += [
            Level(column.title, _step(cell), cell.paper, cell.tolerance) for cell in mine if cell.paper is not None
        ]
    return lines, levels


def _step(cell: Cell) -> int:
    return int(cell.row.removeprefix("step ").replace(",", ""))
