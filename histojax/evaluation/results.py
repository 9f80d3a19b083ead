"""The folder of one evaluation: results.json (scores, settings, where the features are from) and predictions.csv.

What `histojax evaluate` writes and `histojax compare`, `histojax benchmark` and the report read. The table has a row
for each unit that was judged (a tile, a slide, a patient) by each evaluator, so that any score can be computed anew:

evaluator  "knn", "logistic", "transformer" ...
part       "test", or the name of an external cohort
fold       whose model spoke, from 0; empty where there is one model
unit       which tile, slide or patient
group      units of one patient or slide, which are no independent witnesses; empty where unknown
truth      class, number, or (survival) time
event      survival alone: 1 if it happened at that time, 0 if the patient was seen without until then
predicted  class, number, or (survival) risk
p CLASS    probability, a column a class
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded, read_json, write_atomic
from histojax.common.tables import write_table

Task = Literal["classification", "regression", "survival"]
FORMAT = "histojax results 1"
RESULTS, PREDICTIONS = "results.json", "predictions.csv"
TEST = "test"
_FIXED = ("evaluator", "part", "fold", "unit", "group", "truth", "event", "predicted")
_P = "p "


@dataclass(frozen=True)
class Predictions:
    """What one evaluator said of the n units of one part.

    Args:
        evaluator, part, fold: see the head of this module; fold None where there is one model.
        units: (n,) str.
        truth: (n,) int64 class numbers, or float64 (regression; survival: time).
        predicted: (n,) int64 class numbers, or float64 (survival: risk, the larger the sooner).
        probabilities: (n, C) float64, or None (regression, survival, evaluators that only name a class).
        groups: (n,) str, or None where nothing is known.
        events: (n,) int64, survival alone.
    """

    evaluator: str
    part: str
    fold: int | None
    units: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None
    groups: np.ndarray | None = None
    events: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """One number: a metric of an evaluator on a part.

    Args:
        fold: of that fold's model alone; None: of all, see `how`.
        low, high: ends of its interval; NaN without one.
        how: in words, what the number and its interval are ("mean and standard deviation (ddof 0) of 5 folds").
        spread: standard deviation over folds, ddof 0; NaN without folds.
    """

    evaluator: str
    part: str
    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    fold: int | None = None
    how: str = ""


@dataclass(frozen=True)
class Results:
    """An evaluation.

    Args:
        name: of the features, as tables show it ("dinov2_vits14").
        protocol: "patch" or "slide".
        task, target: what was predicted; target is the column's name, "label" for tiles.
        classes: their names, in the order of the class numbers; empty without classes.
        facts: anything that is JSON: settings, features, leakage, robustness, notes (a list of sentences) ...
    """

    name: str
    protocol: Literal["patch", "slide"]
    task: Task
    target: str
    classes: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    scores: tuple[Score, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, evaluator: str, metric: str, part: str = TEST) -> Score | None:
        """The score over all folds, or None if there is none."""
        for one in self.scores:
            if (one.evaluator, one.metric, one.part, one.fold) == (evaluator, metric, part, None):
                return one
        return None


def write_results(folder: str | os.PathLike, results: Results) -> None:
    """Writes both files, each whole or not there, results.json last; raises UserError."""
    folder = Path(folder)
    rows = (row for one in results.predictions for row in _rows(one, results.classes))
    write_table(folder / PREDICTIONS, [*_FIXED, *(_P + name for name in results.classes)], rows)
    told = {
        "format": FORMAT,
        **{key: getattr(results, key) for key in ("name", "protocol", "task", "target", "classes")},
        "scores": [_told(score) for score in results.scores],
        "facts": _plain(results.facts),
    }
    write_atomic(folder / RESULTS, json.dumps(told, indent=1, allow_nan=False) + "\n")


def read_results(folder: str | os.PathLike) -> Results:
    """What `write_results` wrote to `folder`; raises UserError for a folder that is none, and for damaged files."""
    folder = expanded(folder)
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder}: no folder of results (it has no {RESULTS}); give the --out of histojax evaluate")
    told = read_json(folder / RESULTS)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise UserError(f"{folder / RESULTS}: not in the format {FORMAT!r}; run histojax evaluate again")
    try:
        scores = tuple(
            Score(**(one | {"value": math.nan if one["value"] is None else one["value"]})) for one in told["scores"]
        )
        classes = tuple(told["classes"])
        parts = _predictions(folder / PREDICTIONS, classes, told["task"])
        fields = {key: told[key] for key in ("name", "protocol", "task", "target", "facts")}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{folder}: damaged ({error!r}); run histojax evaluate again") from error
    return Results(**fields, classes=classes, predictions=parts, scores=scores)


def _plain(value: Any) -> Any:
    """The same as JSON has it: numbers of numpy become Python's, those that are not finite None, paths text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value


def _told(score: Score) -> dict[str, Any]:
    told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(score).items()}
    return {k: v for k, v in told.items() if v is not None or k == "value"}


def _rows(one: Predictions, classes: tuple[str, ...]) -> Iterator[list[str]]:
    def shown(value: Any) -> str:
        return classes[value] if classes else repr(float(value))

    for i, unit in enumerate(one.units):
        yield [
            one.evaluator,
            one.part,
            "" if one.fold is None else str(one.fold),
            str(unit),
            "" if one.groups is None else str(one.groups[i]),
            shown(one.truth[i]),
            "" if one.events is None else str(int(one.events[i])),
            shown(one.predicted[i]),
            *([""] * len(classes) if one.probabilities is None else map(repr, one.probabilities[i].tolist())),
        ]


def _predictions(path: Path, classes: tuple[str, ...], task: Task) -> tuple[Predictions, ...]:
    """Rows of one evaluator, part and fold together, in the order of the file."""
    if not path.is_file():
        return ()
    numbers = {name: i for i, name in enumerate(classes)}
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["evaluator"], row["part"], row["fold"]), []).append(row)

    def values(rows: list[dict[str, str]], key: str) -> np.ndarray:
        return np.array([numbers[r[key]] if classes else float(r[key]) for r in rows], np.int64 if classes else float)

    def one(key: tuple[str, str, str], rows: list[dict[str, str]]) -> Predictions:
        shares = None
        if classes and rows[0][_P + classes[0]]:
            shares = np.array([[float(row[_P + name]) for name in classes] for row in rows])
        groups = np.array([row["group"] for row in rows]) if any(row["group"] for row in rows) else None
        events = np.array([int(row["event"]) for row in rows]) if task == "survival" else None
        units = np.array([row["unit"] for row in rows])
        fold = int(key[2]) if key[2] else None
        return Predictions(
            key[0], key[1], fold, units, values(rows, "truth"), values(rows, "predicted"), shares, groups, events
        )

    return tuple(one(key, rows) for key, rows in found.items())
