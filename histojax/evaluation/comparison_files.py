"""A comparison for people: lines to print, a table of all tests, a page in Markdown, a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from histojax.common.files import replacing, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.comparison import Comparison, Pair, Table
from histojax.evaluation.paired import Ranks
from histojax.report.paper_tables import markdown_table
from histojax.report.separation import Panel, separation_figure

CSV, MARKDOWN, PICTURE = "comparison.csv", "comparison.md", "comparison.png"
COLUMNS = (
    *("task", "evaluator", "part", "metric", "main", "a", "b", "score_a", "score_b", "difference", "low", "high"),
    *("test", "p", "p_folds", "p_holm", "better", "verdict"),
)
READING = (
    "Differences are a - b with {:g} % intervals over test patients; p Holm is the larger p of patients and folds, "
    "corrected for all pairs of its table."
)
MOST_PANELS, MOST_PAIRS = 12, 10  # that are drawn, and printed of a table


def told(found: Comparison) -> list[str]:
    """The main tables, the mean ranks and the notes, line by line."""
    lines = []
    for table in found.tables:
        if table.main:
            pairs = sorted(table.pairs, key=lambda pair: pair.adjusted)
            lines += [_title(table), *_score_lines(table), *(f"    {_pair_words(pair)}" for pair in pairs[:MOST_PAIRS])]
            lines += [f"    and {len(pairs) - MOST_PAIRS} pairs more in {CSV}"] if len(pairs) > MOST_PAIRS else []
            lines += [""]
    lines += [_rank_words(found.ranked, found.ranks)] if found.ranks else []
    return lines + [f"note: {note}" for note in found.notes]


def write_comparison(folder: Path, found: Comparison) -> None:
    """Writes comparison.csv (a row a pair and metric), comparison.md and comparison.png to a folder that exists."""
    write_table(folder / CSV, COLUMNS, (row for table in found.tables for row in _rows(table)))
    write_atomic(folder / MARKDOWN, _page(found))
    panels = [_panel(table) for table in found.tables if table.main][:MOST_PANELS]
    if panels:
        figure = separation_figure(panels, "a bar joins models of which no two could be told apart")
        with replacing(folder / PICTURE) as temporary:
            figure.savefig(temporary, format="png", dpi=130)


def _title(table: Table) -> str:
    folds = f"{table.folds} folds, " if table.folds > 1 else ""
    kind = "groups" if table.grouped else "units"
    return f"{table.task}: {table.evaluator}, {table.part}, {table.metric} ({folds}{table.witnesses} {kind})"


def _score_lines(table: Table) -> Iterator[str]:
    width = max(map(len, table.names))
    for i in table.order():
        one = table.scores[i]
        spread = "" if math.isnan(one.spread) else f"  sd {one.spread:.3f}"
        yield f"  {table.names[i]:{width}}  {one.value:.3f}  {_range(one.low, one.high, '.3f')}{spread}"


def _pair_words(pair: Pair) -> str:
    p = f"{pair.patients.name} p {_p(pair.patients.p)}"
    p += f", folds p {_p(pair.folds.p)}" if pair.folds else ""
    span = _range(pair.patients.low, pair.patients.high, "+.3f")
    return f"{pair.a} - {pair.b}: {pair.patients.difference:+.3f} {span} ({p}, Holm {_p(pair.adjusted)}): {pair.words}"


def _rank_words(names: tuple[str, ...], ranks: Ranks | None) -> str:
    assert ranks is not None
    order = sorted(range(len(names)), key=lambda i: ranks.means[i])
    text = ", ".join(f"{names[i]} {ranks.means[i]:.2f}" for i in order)
    doubt = "" if math.isnan(ranks.p) else f"; Friedman p {_p(ranks.p)}"
    return (
        f"mean ranks over {ranks.blocks} tables: {text} (nearer than {ranks.critical:.2f}: not resolved{doubt}; "
        "tables of the same patients are no independent witnesses)"
    )


def _rows(table: Table) -> Iterator[list[object]]:
    for pair in table.pairs:
        a, b = (table.scores[table.names.index(name)].value for name in (pair.a, pair.b))
        test, folds = pair.patients, pair.folds
        yield [
            *(table.task, table.evaluator, table.part, table.metric, int(table.main), pair.a, pair.b),
            *map(_number, (a, b, test.difference, test.low, test.high)),
            test.name,
            *map(_number, (test.p, folds.p if folds else math.nan, pair.adjusted)),
            pair.better,
            pair.words,
        ]


def _page(found: Comparison) -> str:
    parts = ["# Comparison\n", READING.format(100 * found.level) + "\n"]
    for table in sorted(found.tables, key=lambda table: not table.main):
        scores = [
            [table.names[i], f"{one.value:.3f}", _range(one.low, one.high, ".3f"), _number(one.spread, ".3f")]
            for i in table.order()
            for one in (table.scores[i],)
        ]
        pairs = [
            [
                *(f"{pair.a} - {pair.b}", f"{test.difference:+.3f}", _range(test.low, test.high, "+.3f")),
                *(f"{test.name}: {_p(test.p)}", _p(pair.folds.p) if pair.folds else "", _p(pair.adjusted), pair.words),
            ]
            for pair in table.pairs
            for test in (pair.patients,)
        ]
        heading = f"## {_title(table)}\n" if table.main else f"### {_title(table)}\n"
        parts += [heading, markdown_table(("run", table.metric, "interval", "sd over folds"), scores)]
        parts.append(markdown_table(("pair", "difference", "interval", "p", "p folds", "p Holm", "verdict"), pairs))
    parts += [_rank_words(found.ranked, found.ranks) + "\n"] if found.ranks else []
    parts += [f"- {note}\n" for note in found.notes]
    return "\n".join(parts)


def _panel(table: Table) -> Panel:
    order = table.order()
    scores = [table.scores[i] for i in order]
    return Panel(
        _title(table),
        table.metric,
        [table.names[i] for i in order],
        [one.value for one in scores],
        [one.low for one in scores],
        [one.high for one in scores],
        table.together(),
    )


def _p(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"  # a t-value far out says no more


def _range(low: float, high: float, style: str) -> str:
    return "[no interval]" if math.isnan(low) else f"[{low:{style}}, {high:{style}}]"


def _number(value: float, style: str = ".6g") -> str:
    return f"{value:{style}}" if math.isfinite(value) else ""
