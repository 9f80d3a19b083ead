"""The facts of results as parts of a page: leaks and notes, curves, few-shot tables, and anything else that is JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.evaluation.results_figures import metric_words
from histojax.report.figures import Curve, lines_figure
from histojax.report.page import Facts, Folded, Part, Picture, Table, Text

MOST_ROWS = 60  # of a table of facts
NO_LEAK = "Nothing that training and test share was found."


def first_of_all(facts: Mapping[str, Any]) -> Iterator[Part]:
    """Leaks, which stand out if there are any, and notes."""
    leakage = facts.get("leakage")
    if isinstance(leakage, Mapping):
        sentences, count = _sentences(leakage.get("sentences")), len(leakage.get("shared", ()))
        if count:  # those on what is shared come first
            yield Text((*sentences[:count], "These leaks were allowed: scores are too good to be believed."), "warning")
        if not count or sentences[count:]:
            yield Text((*(() if count else (NO_LEAK,)), *sentences[count:]), "box")
    elif sentences := _sentences(leakage):
        yield Text(sentences, "box")
    if notes := _sentences(facts.get("notes")):
        yield Text(notes)


def _sentences(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def curves(facts: Mapping[str, Any], run: Path | None) -> Iterator[Part]:
    """The training of the weights, if the folder of its run is here, and the curves of `facts["curves"]`."""
    if run is not None and (run / "curves.png").is_file():
        data = (run / "curves.png").read_bytes()
        yield Picture(data, "curves of the training", f"The training of the weights: {run.name}.", 1100)
    for title, lines in (facts.get("curves") or {}).items():
        drawn = [_curve(name, points, i) for i, (name, points) in enumerate(lines.items()) if points]
        if drawn:
            figure = lines_figure(drawn, "step", "", title)
            yield Picture(figure.png, title, "", figure.width)


def _curve(name: str, points: Sequence[Sequence[float | None]], number: int) -> Curve:
    x, y = (np.array([point[i] for point in points], float) for i in (0, 1))
    return Curve(x, y, name, number)


def few_shot(rows: Any) -> Iterator[Part]:
    """Rows {"shots": k, "mean": ..., "low": ..., "high": ...} as a figure and a table."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        yield from told(rows)
        return
    known = [row for row in rows if isinstance(row.get("shots"), int) and row.get("mean") is not None]
    if len(known) > 1:
        x = np.array([row["shots"] for row in known], float)
        lines = [Curve(x, np.array([row["mean"] for row in known], float), "mean of the draws", 0)]
        for key in ("low", "high"):
            if all(row.get(key) is not None for row in known):
                lines.append(Curve(x, np.array([row[key] for row in known], float), "", 0, faint=True))
        figure = lines_figure(lines, "tiles a class", "balanced accuracy", "Few-shot", log_x=True)
        caption = "Faint: the ends of the middle 95 % of the draws." if len(lines) > 1 else ""
        yield Picture(figure.png, "few-shot accuracy", caption, figure.width)
    yield from told(rows)


def told(value: Any) -> Iterator[Part]:
    """Anything that is JSON, for people: lists of rows as tables, names and values as such, sentences as text."""
    if isinstance(value, Mapping):
        plain = {words_of(k): _cell(v) for k, v in value.items() if not _nested(v)}
        yield from [Facts(plain)] if plain else []
        for key, inner in value.items():
            if _nested(inner) and inner:
                yield Folded(words_of(key), list(told(inner)))
    elif isinstance(value, (list, tuple)) and value and all(isinstance(one, Mapping) for one in value):
        titles = list(dict.fromkeys(key for row in value for key in row))
        rows = [[_cell(row.get(key, "")) for key in titles] for row in value[:MOST_ROWS]]
        more = f"{len(value) - MOST_ROWS} more rows are in results.json" if len(value) > MOST_ROWS else ""
        yield Table([words_of(title) for title in titles], rows, note=more)
    elif isinstance(value, (list, tuple)):
        yield Text(tuple(_cell(one) for one in value[:MOST_ROWS]))
    elif value is not None:
        yield Text((_cell(value),))


def _nested(value: Any) -> bool:
    """Whether a value needs a place of its own."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, (list, tuple)) and any(isinstance(one, (Mapping, list, tuple)) for one in value)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(one) for one in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{words_of(key)} {_cell(one)}" for key, one in value.items())
    return "–" if value is None else str(value)


def words_of(key: Any) -> str:
    """A key as a heading: a capital first, spaces for underscores."""
    text = metric_words(str(key))
    return text[:1].upper() + text[1:] if text.islower() else text
