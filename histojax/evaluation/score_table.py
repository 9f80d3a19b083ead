"""Scores as tables: one for people to read on a terminal, one for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from histojax.common.tables import write_table
from histojax.evaluation.results import Results, Score

TITLES = ("name", "evaluator", "part", "fold", "metric", "value", "low", "high", "spread", "how")


def write_scores(path: Path, results: Results) -> None:
    """Writes a row a score; numbers in full, empty where there is none. Raises UserError."""
    rows = (
        [
            results.name,
            one.evaluator,
            one.part,
            "" if one.fold is None else one.fold,
            one.metric,
            *_numbers(one),
            one.how,
        ]
        for one in results.scores
    )
    write_table(path, TITLES, rows)


def _numbers(one: Score) -> list[str]:
    return [repr(v) if math.isfinite(v) else "" for v in (one.value, one.low, one.high, one.spread)]


def in_lines(results: Results, metrics: Sequence[str]) -> list[str]:
    """The scores over all folds, a line an evaluator and part (0.812 [0.790, 0.831]); unknown metrics are gone."""
    shown = [s for s in results.scores if s.fold is None and s.metric in metrics]
    used = [metric for metric in metrics if any(s.metric == metric for s in shown)]
    table = [["", *(name.replace("_", " ") for name in used)]]
    for key in dict.fromkeys((s.evaluator, s.part) for s in shown):
        cells = [next((_cell(s) for s in shown if (s.evaluator, s.part, s.metric) == (*key, m)), "") for m in used]
        table.append([f"{key[0]} on {key[1]}", *cells])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in table]


def _cell(one: Score) -> str:
    text = "undefined" if not math.isfinite(one.value) else f"{one.value:.3f}"
    if math.isfinite(one.spread):
        text += f" +- {one.spread:.3f}"
    return text + (f" [{one.low:.3f}, {one.high:.3f}]" if math.isfinite(one.low) else "")
