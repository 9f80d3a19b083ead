"""Encoders compared on the same units: paired tests, Holm's correction, and a verdict in words.

Two questions are asked of every pair. Would it hold for other patients? DeLong for AUROC of two classes, McNemar for
accuracy of units that stand alone, else the paired bootstrap; models are held fixed. Would it hold for other training
patients? The corrected t-test over folds. "Better" is said only where every question that can be asked says so, after
Holm's correction over the pairs of a table: then a false "better" comes up in 5 % of tables at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.intervals import DRAWS, LEVEL, drawn_means, interval_of, over_folds, scored, witnesses
from histojax.evaluation.paired import (
    Ranks,
    Test,
    corrected_t,
    delong_folds,
    holm,
    mcnemar,
    mean_ranks,
    paired_bootstrap,
)
from histojax.evaluation.pairing import Key, Run, aligned, by_task
from histojax.evaluation.results import Predictions, Results, Score

LOWER = ("ece", "brier", "log_loss", "mae")  # metrics that are better when smaller
MAIN = {"regression": ("r2",), "survival": ("concordance",)}  # the metric of the verdict: the first that every run has
OF_TWO, OF_MORE = ("auroc", "balanced_accuracy"), ("balanced_accuracy",)  # the same of classes, as the paper's tables
ALPHA = 1 - LEVEL
VALIDATION = 0.25  # of the patients that a fold does not test, by the paper's scheme: they train nothing


@dataclass(frozen=True)
class Pair:
    """Two runs of a table.

    Args:
        a, b: their names.
        patients: the test over test units or groups, models fixed.
        folds: the test over folds; None with one model.
        adjusted: p of the claim, the larger of both tests, after Holm.
        better: name of the better one, "" where that cannot be claimed.
        words: the verdict.
    """

    a: str
    b: str
    patients: Test
    folds: Test | None
    adjusted: float
    better: str
    words: str


@dataclass(frozen=True)
class Table:
    """All runs of one task by one evaluator, part and metric; `main` is the metric that verdicts rest on.

    `scores` (of all folds) are in the order of `names`; `witnesses` are the units or groups that were drawn.
    """

    task: str
    evaluator: str
    part: str
    metric: str
    main: bool
    names: tuple[str, ...]
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    witnesses: int
    grouped: bool
    folds: int

    def order(self) -> list[int]:
        """Positions of the runs, best first."""
        sign = 1 if self.metric in LOWER else -1
        return sorted(range(len(self.names)), key=lambda i: (math.isnan(v := self.scores[i].value), sign * v))

    def together(self) -> list[tuple[int, int]]:
        """(first, last) in the order of `order`: longest runs of neighbours of which no two were told apart."""
        apart = {frozenset((pair.a, pair.b)) for pair in self.pairs if pair.better}
        names = [self.names[i] for i in self.order()]
        spans: list[tuple[int, int]] = []
        for first in range(len(names)):
            last = first
            while last + 1 < len(names) and not any(
                frozenset((names[last + 1], names[i])) in apart for i in range(first, last + 1)
            ):
                last += 1
            if last > first and (not spans or last > spans[-1][1]):
                spans.append((first, last))
        return spans


@dataclass(frozen=True)
class Comparison:
    """All tables; mean ranks of the runs that are in all of several tables; sentences on what was left out."""

    tables: tuple[Table, ...]
    ranked: tuple[str, ...]
    ranks: Ranks | None
    notes: tuple[str, ...]
    level: float = LEVEL


def compare(
    runs: Sequence[Run],
    metrics: Sequence[str] = (),
    common: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """Compares runs of one or several tasks (`pairing.named_runs` names them); raises UserError if they do not pair.

    `metrics` are the ones to tell of (default: all that every run has); the first given one then is the main one.
    With `common`, units that a run lacks are left out and counted.
    """
    tables: list[Table] = []
    notes: list[str] = []
    for task in by_task(runs, common):
        keys = [key for key in task[0].judged() if all(key in run.judged() for run in task)]
        lost = sorted({f"{e} ({p})" for run in task for e, p in run.judged() if (e, p) not in keys})
        if lost:
            notes.append(f"{_name(task[0])}: not every run has {', '.join(lost)}: not compared")
        for key in keys:
            found, said = _tables(task, key, metrics, common, draws, seed, level)
            tables += found
            notes += said
    unknown = [metric for metric in metrics if all(table.metric != metric for table in tables)]
    if unknown:
        raise UserError(f"metric {', '.join(unknown)}: the runs have no such score")
    return Comparison(tuple(tables), *_ranked(tables, level), tuple(notes), level)


@dataclass(frozen=True)
class _Heard:
    """What a run said under one key: folds, {metric: [score over all, of each fold]}, {metric: (draws,)}."""

    folds: Sequence[Predictions]
    scores: dict[str, list[Score]]
    drawn: dict[str, np.ndarray]


def _tables(
    task: Sequence[Run], key: Key, metrics: Sequence[str], common: bool, draws: int, seed: int, level: float
) -> tuple[list[Table], list[str]]:
    """(a table a metric, sentences) of one evaluator on one part."""
    each, notes = aligned(task, key, common)
    results, names = task[0].results, [witnesses(one) for one in each[0]]
    if not all(map(len, names)):
        return [], [*notes, f"{key[0]}, {key[1]}: a fold without units that all judged: not compared"]
    heard = [_hear(folds, names, results, draws, seed, level) for folds in each]
    shared = [m for m in heard[0].scores if all(math.isfinite(_value(one, m)) for one in heard)]
    lost = [metric for one in heard for metric in one.scores if metric not in shared]
    notes += [f"{key[0]}, {key[1]}: not every run has {', '.join(dict.fromkeys(lost))}"] if lost else []
    main = next((metric for metric in (*metrics, *_main_metrics(results)) if metric in shared), "")
    count, run_names = len(np.unique(np.concatenate(names))), tuple(run.name for run in task)
    tables = []
    for metric in shared if not metrics else [metric for metric in metrics if metric in shared]:
        tests = [
            (a, b, *_tested(heard[a], heard[b], metric, names, count, level))
            for a, b in combinations(range(len(task)), 2)
        ]
        pairs = _judged(tests, run_names, metric, len(names), level)
        scores = tuple(one.scores[metric][0] for one in heard)
        grouped = each[0][0].groups is not None
        tables.append(
            Table(_name(task[0]), *key, metric, metric == main, run_names, scores, pairs, count, grouped, len(names))
        )
    return tables, notes


def _main_metrics(results: Results) -> tuple[str, ...]:
    if results.task == "classification":
        return OF_TWO if len(results.classes) == 2 else OF_MORE
    return MAIN[results.task]


def _hear(
    folds: Sequence[Predictions], names: Sequence[np.ndarray], results: Results, draws: int, seed: int, level: float
) -> _Heard:
    task, classes = results.task, results.classes
    drawn = drawn_means(folds, names, task, len(classes), draws, seed)
    plain = over_folds(folds, task, classes, draws=0) if len(folds) > 1 else scored(folds[0], task, classes, draws=0)
    scores: dict[str, list[Score]] = {}
    for one in plain:
        low, high = interval_of(one.metric, drawn[one.metric], level)
        over_all = one.metric not in scores
        scores.setdefault(one.metric, []).append(replace(one, low=low, high=high, fold=None) if over_all else one)
    return _Heard(folds, scores, drawn)


def _value(one: _Heard, metric: str) -> float:
    return one.scores[metric][0].value if metric in one.scores else math.nan


def _tested(
    a: _Heard, b: _Heard, metric: str, names: Sequence[np.ndarray], count: int, level: float
) -> tuple[Test, Test | None]:
    """(test over patients, test over folds) of two runs; `count` units or groups were there to draw."""
    patients = paired_bootstrap(_value(a, metric), _value(b, metric), a.drawn[metric], b.drawn[metric], count, level)
    first, other = a.folds[0], b.folds[0]
    if metric == "auroc" and first.probabilities is not None and first.probabilities.shape[1] == 2:
        truth = [one.truth for one in a.folds]
        patients = delong_folds(truth, _of_second_class(a), _of_second_class(b), names, level)
    elif metric == "accuracy" and len(names) == 1 and count == len(names[0]):
        exact = mcnemar(first.predicted == first.truth, other.predicted == other.truth)
        patients = replace(exact, low=patients.low, high=patients.high)
    if len(names) == 1:
        return patients, None
    values = [[score.value for score in one.scores[metric][1:]] for one in (a, b)]
    return patients, corrected_t(values[0], values[1], tested_per_trained(len(names)), level)


def _of_second_class(one: _Heard) -> list[np.ndarray]:
    return [fold.probabilities[:, 1] for fold in one.folds if fold.probabilities is not None]


def tested_per_trained(folds: int) -> float:
    """Patients tested for each one trained on, by the paper's scheme: 1/3 of five folds."""
    return 1 / ((folds - 1) * (1 - VALIDATION))


def _judged(
    pairs: Sequence[tuple[int, int, Test, Test | None]], names: Sequence[str], metric: str, folds: int, level: float
) -> tuple[Pair, ...]:
    """The pairs with Holm's correction and their verdicts."""
    alone = holm([patients.p for _, _, patients, _ in pairs])
    claims = holm([max(patients.p, over.p if over else 0.0) for _, _, patients, over in pairs])
    found = []
    for (a, b, patients, over), p_alone, p in zip(pairs, alone, claims):
        sign = -1 if metric in LOWER else 1
        better = names[a] if sign * patients.difference > 0 else names[b]
        if p <= 1 - level:
            words = f"{better} is better"
        elif p_alone <= 1 - level and over is not None:
            words = (
                f"{better} is ahead on these patients, but {folds} folds do not resolve it: trained on other patients "
                f"the order may turn ({_resolvable(over)})"
            )
        else:
            words = "no difference can be claimed" + (f" ({_resolvable(over)})" if over is not None else "")
        found.append(Pair(names[a], names[b], patients, over, float(p), better if p <= 1 - level else "", words))
    return tuple(found)


def _resolvable(over: Test) -> str:
    """What the folds could have told apart."""
    reach = (over.high - over.low) / 2
    return f"these folds resolve {reach:.3f} and more" if math.isfinite(reach) else "too few folds to resolve any"


def _ranked(tables: Sequence[Table], level: float) -> tuple[tuple[str, ...], Ranks | None]:
    """Mean ranks of the runs that are in every main table, of two or more."""
    main = [table for table in tables if table.main]
    names = [name for name in main[0].names if all(name in table.names for table in main)] if main else []
    if len(main) < 2 or len(names) < 2:
        return (), None
    rows = [[(-1 if t.metric in LOWER else 1) * t.scores[t.names.index(name)].value for name in names] for t in main]
    return tuple(names), mean_ranks(np.array(rows), level)


def _name(run: Run) -> str:
    one = run.results
    return f"{one.protocol}, {one.target}" + (f" ({len(one.classes)} classes)" if one.classes else f" ({one.task})")
