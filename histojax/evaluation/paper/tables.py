"""Tables 1, 2 and 3 of the paper and what others report: a cell for each number, from results or from records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histojax.evaluation.paper.cells import HOLE, Cell, verdict
from histojax.evaluation.paper.numbers import (
    PRINTED_WIDTH,
    RELEASED,
    SOURCE,
    WIDTH_NOTE,
    Column,
    encoder_of,
    reported,
)
from histojax.evaluation.paper.published import MSI, NCT_LINEAR
from histojax.evaluation.paper.settings import Protocol, Row
from histojax.evaluation.results import Results
from histojax.models.network import parameter_count
from histojax.zoo.table import ENCODERS, PAPER, find, is_known

Found = Mapping[str, Results | str]  # {name of the row: its results, or why there are none}
PARAMETER_TOLERANCE = 0.06  # printed numbers are rounded, DINOv2's are those of its model card
_PARAMETERS, _WIDTH = "Parameters (M)", "Width"


@dataclass(frozen=True)
class Table:
    """A table to be written.

    Args:
        key: stem of its files.
        title: what it is, in words.
        columns: in order.
        cells: of its rows, in order.
        notes: sentences below it.
        optional: whether its holes are no lack: rows that nobody asked for.
        another: why none of its cells is compared, "" if they are.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    optional: bool = False
    another: str = ""

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of its rows, in order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    def cell(self, row: str, column: str) -> Cell | None:
        """The cell of a row and column, None if there is none."""
        return next((one for one in self.cells if (one.row, one.column) == (row, column)), None)


def score_table(
    protocol: Protocol, rows: Sequence[Row], found: Found, another: str = "", no_part: Mapping[str, str] | None = None
) -> Table:
    """Table 2 ("patch") or Table 1 ("slide").

    Args:
        protocol, rows: of the benchmark.
        found: results of each row.
        another: why no number can be compared with the paper's (other data), "" if it can.
        no_part: {part of the results: why it is missing}.
    """
    name, columns, numbers = reported(protocol)
    cells = []
    for row in rows:
        printed = numbers[row.name] if row.paper else (None,) * len(columns)
        cells += [_score(row, column, paper, found, another, no_part or {}) for column, paper in zip(columns, printed)]
    data = "TCGA-CRC and CPTAC, MSI-H" if protocol == "slide" else "NCT-CRC-HE-100K to CRC-VAL-HE-7K"
    notes = [f"Paper: {SOURCE}, {name} ({data}).", *_tolerances(columns)]
    if another:
        notes.append(f"Not compared with the paper: {another}.")
    if protocol == "patch":
        notes += [
            f"{row}: balanced accuracy in the README of the released weights: 20-NN {knn:.3f}, linear {linear:.3f}."
            for row, (knn, linear) in RELEASED.items()
            if any(one.name == row for one in rows)
        ]
    else:
        notes += ["The paper's standard deviations of single cells are not known to us (0.05 to 0.12 on TCGA)."]
    title = f"{name}: {'MSI from slides, AUROC' if protocol == 'slide' else 'patch classification'}"
    titles = tuple(column.title for column in columns)
    return Table(name.lower().replace(" ", ""), title, titles, tuple(cells), tuple(notes), another=another)


def _score(
    row: Row, column: Column, paper: float | None, found: Found, another: str, no_part: Mapping[str, str]
) -> Cell:
    results = found.get(row.name, "not run")
    tolerance = column.trained if row.trained else column.tolerance
    if isinstance(results, str):
        return Cell(row.title, column.title, paper, tolerance=tolerance, why=results)
    score = results.score(column.evaluator, column.metric, column.part)
    if score is None or math.isnan(score.value):
        lacking = (
            no_part.get(column.part) or f"the results have no {column.metric} of {column.evaluator} on {column.part}"
        )
        return Cell(row.title, column.title, paper, tolerance=tolerance, why=lacking)
    said, why = verdict(paper, score.value, tolerance, another or row.another)
    return Cell(
        row.title, column.title, paper, score.value, score.low, score.high, score.spread, tolerance, said, why
    )  # fmt: skip


def _tolerances(columns: Sequence[Column]) -> list[str]:
    """What counts as agreement, columns of one tolerance together, and why."""
    alike: dict[tuple[float, float], list[str]] = {}
    for column in columns:
        alike.setdefault((column.tolerance, column.trained), []).append(column.title)
    parts = [
        f"{' and '.join(titles)} within {ours:g}{f' ({own:g} for a training of the user)' if own != ours else ''}"
        for (ours, own), titles in alike.items()
    ]
    return [f"Agreement: {', '.join(parts)}.", *(f"Why: {why}." for why in dict.fromkeys(c.why for c in columns))]


def encoder_table(protocol: Protocol, rows: Sequence[Row]) -> Table:
    """Table 3: parameters and widths of the networks as we count them, of rows with a published encoder."""
    cells = []
    for row in rows:
        if not is_known(row.spec) and not row.paper:
            continue
        record = find(row.spec) if is_known(row.spec) else ENCODERS[encoder_of(row.name, protocol)]
        printed = PAPER[row.name][0] if row.paper else ""
        cells += [_parameters(row.name, printed, parameter_count(record.network) / 1e6), _width(row, record.features)]
    notes = (
        f"Paper: {SOURCE}, Table 3. Ours: parameters of the published file, with classifier (ResNet50) and mask token "
        f"(DINOv2). Agrees within {PARAMETER_TOLERANCE:.0%}: printed numbers are rounded.",
        "Widths as printed are known to us only where they differ from the network's.",
    )
    return Table("table3", "Table 3: encoders", (_PARAMETERS, _WIDTH), tuple(cells), notes)


def _parameters(row: str, printed: str, ours: float) -> Cell:
    paper = _millions(printed) if printed else None
    tolerance = math.nan if paper is None else PARAMETER_TOLERANCE * paper
    said, why = verdict(paper, ours, tolerance if paper else 0.0)
    return Cell(row, _PARAMETERS, paper, ours, tolerance=tolerance, verdict=said, why=why, digits=1, printed=printed)


def _width(row: Row, ours: int) -> Cell:
    paper = PRINTED_WIDTH.get(row.name) if row.paper else None
    said, _ = verdict(paper, ours, 0.0)
    why = WIDTH_NOTE.get(row.name, "") if paper is not None else ""
    printed = "" if paper is None else str(paper)
    return Cell(row.name, _WIDTH, paper, ours, tolerance=0.0, verdict=said, why=why, digits=0, printed=printed)


def _millions(printed: str) -> float:
    number, unit = printed.split()
    return float(number) * {"M": 1, "B": 1000}[unit]


def others_table(rows: Sequence[Row], found: Found, another: str = "") -> Table:
    """What others report for NCT-CRC-HE, beside our linear balanced accuracy where we have that encoder."""
    ours = {find(row.spec).name: row for row in rows if is_known(row.spec) and not row.another}
    same = {"dinov2_vitg14": "dinov2_vitg14_paper"}  # one file, another size of the input
    cells = []
    for source, encoder, model, number in NCT_LINEAR:
        row = ours.get(encoder) or ours.get(same.get(encoder, ""))
        results = found.get(row.name) if row else None
        score = results.score("logistic", "balanced_accuracy") if isinstance(results, Results) else None
        if score is None:
            why = "not among our encoders" if not encoder else f"{encoder} was not run"
            cells.append(Cell(model, source.name, number, verdict=HOLE, why=why, printed=f"{number:.3f}"))
            continue
        differs = another or ("" if source.tolerance else source.what)
        said, why = verdict(number, score.value, source.tolerance or 0.0, differs)
        cells.append(
            Cell(model, source.name, number, score.value, score.low, score.high, math.nan, source.tolerance or math.nan,
                 said, why, printed=f"{number:.3f}")
        )  # fmt: skip
    sources = tuple({source.name: source for source, *_ in NCT_LINEAR}.values())
    told = [
        f"{one.name}: {one.where}; {one.what}." + (f" Agrees within {one.tolerance:g}." if one.tolerance else "")
        for one in sources
    ]
    notes = ("Rows are filled by naming their encoders (`encoders` of the configuration).", *told)
    title = "Published by others: NCT-CRC-HE, linear, balanced accuracy"
    return Table(
        "others_nct", title, tuple(one.name for one in sources), tuple(cells), notes, optional=True, another=another
    )


def others_msi() -> tuple[list[str], list[list[str]]]:
    """(titles, rows) of what others report of MSI; other cohorts, so that nothing is compared."""
    return ["what", "metric", "published", "source"], [list(row) for row in MSI]


def holes(tables: Sequence[Table]) -> dict[tuple[str, str], list[str]]:
    """{(row, why it is a hole): columns} of all cells without a number of ours, optional tables apart."""
    found: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        for cell in () if table.optional else table.cells:
            if cell.verdict == HOLE:
                found.setdefault((cell.row, cell.why), []).append(cell.column)
    return found


def hole_lines(tables: Sequence[Table]) -> list[str]:
    """The holes in words, rows that lack the same for the same reason on one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for (row, why), columns in holes(tables).items():
        alike.setdefault((why, ", ".join(columns)), []).append(row)
    return [f"{', '.join(rows)} ({columns}): {why}" for (why, columns), rows in alike.items()]
