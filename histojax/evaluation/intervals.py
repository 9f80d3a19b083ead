"""Scores with bootstrap intervals. Where patients or slides are known, they are drawn, not their tiles.

Tiles of one slide are no independent witnesses: an interval from tiles drawn one by one is far too narrow. The
interval tells how much the score would vary with other test patients; models and their training are held fixed.
Percentile intervals (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from histojax.evaluation.results import Predictions, Score, Task
from histojax.evaluation.weighted import Scorer, classification_scorer, regression_scorer, survival_scorer

DRAWS, LEVEL = 1000, 0.95
BLOCK = 1 << 21  # entries of a block of draws
UPWARD = ("ece",)  # larger in every resample than in the units themselves: draws say nothing of where it lies
FEW = 10  # below so many, an interval is too narrow to be believed (Carpenter and Bithell 2000)

Interval = tuple[float, float]


def bootstrap(
    score: Scorer,
    count: int,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """{metric: (low, high)} of `score` (see evaluation.weighted) on `count` units, or on groups (count,) of units.

    NaN where fewer than two units or groups can be drawn, or most draws leave the metric undefined.
    """
    names = np.arange(count) if groups is None else groups
    values = _drawn_values([score], [names], draws, seed)
    return {name: interval(value[0], level) for name, value in values.items()}


def scored(
    predictions: Predictions,
    task: Task,
    classes: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Score, ...]:
    """Every metric of one evaluator on one part (of one fold), with its interval.

    `classes` are the names (empty: regression, survival); `draws` 0 leaves the intervals out.
    """
    if not len(predictions.units):
        return ()
    score = make_scorer(predictions, task, len(classes))
    points = score(np.ones((1, len(predictions.units))))
    names = witnesses(predictions)
    values = _drawn_values([score], [names], draws, seed) if draws else {}
    found = []
    for metric, point in points.items():
        low, high = interval_of(metric, values[metric][0] if draws else np.array([]), level)
        how = _how(predictions, names, draws * (metric not in UPWARD), level) + _undefined(values.get(metric))
        found.append(_score(predictions, metric, float(point[0]), low, high, how, fold=predictions.fold))
    return tuple(found)


def over_folds(
    predictions: Sequence[Predictions],
    task: Task,
    classes: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Score, ...]:
    """Every metric of one evaluator on one part: of all folds (fold None), then of each fold.

    The score of all folds is the mean over folds, its spread their standard deviation (ddof 0, as the paper). Its
    interval: patients of each fold are drawn anew, or, where every fold's model judged the same ones (an external
    cohort), the same draw for every fold; then the mean over folds. Folds that do not define a metric are left out
    of its mean and counted in `how`.
    """
    folds = [one for one in predictions if len(one.units)]
    if not folds:
        return ()
    scorers = [make_scorer(one, task, len(classes)) for one in folds]
    names = [witnesses(one) for one in folds]
    values = _drawn_values(scorers, names, draws, seed) if draws else {}
    alone = [score for one in folds for score in scored(one, task, classes, draws, seed, level)]
    found = []
    for metric in dict.fromkeys(score.metric for score in alone):
        each = np.array([score.value for score in alone if score.metric == metric])
        known = each[np.isfinite(each)]
        mean, spread = (float(known.mean()), float(known.std())) if len(known) else (math.nan, math.nan)
        means = mean_known(values[metric]) if draws else np.array([])
        low, high = interval_of(metric, means, level)
        how = _how_folds(folds, names, len(known), draws * (metric not in UPWARD), level) + _undefined(
            values.get(metric)
        )
        found.append(_score(folds[0], metric, mean, low, high, how, spread))
    return (*found, *alone)


def make_scorer(predictions: Predictions, task: Task, classes: int = 0) -> Scorer:
    """The scorer of all metrics that the predictions of a task with so many classes allow."""
    truth, predicted = predictions.truth, predictions.predicted
    if task == "survival":
        assert predictions.events is not None
        return survival_scorer(truth, predictions.events, predicted)
    if task == "regression":
        return regression_scorer(truth, predicted)
    return classification_scorer(truth, predicted, predictions.probabilities, classes)


def drawn_means(
    folds: Sequence[Predictions], names: Sequence[np.ndarray], task: Task, classes: int, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """{metric: (draws,)} the mean over folds in each draw; the draws depend on `names` and `seed` alone.

    `names` are those of `witnesses`: models that judged the same ones are compared draw by draw.
    """
    values = _drawn_values([make_scorer(one, task, classes) for one in folds], names, draws, seed)
    return {metric: mean_known(one) for metric, one in values.items()}


def witnesses(predictions: Predictions) -> np.ndarray:
    """(n,) str: what is drawn: the group of each unit; a unit without one stands for itself."""
    units = np.asarray(predictions.units).astype(str)
    if predictions.groups is None:
        return units
    groups = np.asarray(predictions.groups).astype(str)
    return np.where(groups == "", np.char.add("unit ", units), groups)


def drawn_counts(
    names: Sequence[np.ndarray], draws: int, seed: int = 0, block: int = BLOCK
) -> Iterator[list[np.ndarray]]:
    """Blocks of draws: for each fold (D, n) how often each of its units was drawn, float64.

    `names` (n,) of each fold say what is drawn together. Folds that share no name are drawn apart, so that each
    keeps its size; else the names of all are drawn once.
    """
    rng = np.random.default_rng(seed)
    tables, inverses = zip(*(np.unique(one, return_inverse=True) for one in names))
    union = np.unique(np.concatenate(tables))
    apart = len(union) == sum(map(len, tables))
    step = max(block // max(sum(map(len, names)), 1), 1)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        if apart:
            yield [_counts(rng, count, len(table))[:, inverse] for table, inverse in zip(tables, inverses)]
        else:
            drawn = _counts(rng, count, len(union))
            yield [drawn[:, np.searchsorted(union, table)[inverse]] for table, inverse in zip(tables, inverses)]


def interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of the values that are finite; NaN unless half of them are, and differ at all."""
    known = values[np.isfinite(values)]
    if len(known) < max(2, len(values) / 2):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of(metric: str, values: np.ndarray, level: float = LEVEL) -> Interval:
    """The same of a metric's draws; NaN for those that resampling itself makes larger."""
    return (math.nan, math.nan) if metric in UPWARD else interval(values, level)


def _counts(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """(draws, size) float64: how often each of `size` came when `size` were drawn with replacement."""
    flat = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _drawn_values(
    scorers: Sequence[Scorer], names: Sequence[np.ndarray], draws: int, seed: int
) -> dict[str, np.ndarray]:
    """{metric: (folds, draws)}; all NaN where a fold has but one group to draw."""
    found: dict[str, list[list[np.ndarray]]] = {}
    lonely = [len(np.unique(one)) < 2 for one in names]
    for blocks in drawn_counts(names, draws, seed):
        for place, (score, drawn) in enumerate(zip(scorers, blocks)):
            for metric, values in score(drawn).items():
                parts = found.setdefault(metric, [[] for _ in scorers])
                parts[place].append(np.full(len(values), np.nan) if lonely[place] else values)
    return {metric: np.array([np.concatenate(fold) for fold in parts]) for metric, parts in found.items()}


def mean_known(values: np.ndarray) -> np.ndarray:
    """(D,) mean over the folds (F, D) that define the metric in a draw; NaN where none does."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)


def _score(
    one: Predictions,
    metric: str,
    value: float,
    low: float,
    high: float,
    how: str,
    spread: float = math.nan,
    fold: int | None = None,
) -> Score:
    return Score(one.evaluator, one.part, metric, value, low, high, spread, fold, how)


def _how(one: Predictions, names: np.ndarray, draws: int, level: float) -> str:
    count = len(np.unique(names))
    what = f"{count} groups of {len(names)} units" if one.groups is not None else f"{count} units"
    if not draws:
        return f"of {what}; without interval"
    if count < 2:
        return f"of {what}: nothing can be drawn, so it has no interval"
    few = f"; too narrow: fewer than {FEW} were there to draw from" if count < FEW else ""
    return f"{100 * level:g} % interval from {draws} bootstrap draws of {what}{few}"


def _how_folds(folds: Sequence[Predictions], names: Sequence[np.ndarray], known: int, draws: int, level: float) -> str:
    text = f"mean and standard deviation (ddof 0) of {known} folds"
    if known < len(folds):
        text += f" (of {len(folds)}: the others do not define it)"
    if not draws:
        return text
    grouped = all(one.groups is not None for one in folds)
    distinct = len(np.unique(np.concatenate(names)))
    shared = distinct < sum(len(np.unique(one)) for one in names)
    where = "the same for every fold" if shared else "within each fold"
    few = f"; too narrow: fewer than {FEW} were there to draw from" if distinct < FEW else ""
    what = f"{distinct} {'groups' if grouped else 'units'}"
    return f"{text}; {100 * level:g} % interval from {draws} bootstrap draws of {what}, {where}{few}"


def _undefined(values: np.ndarray | None) -> str:
    """What is to be said of draws that leave a metric undefined."""
    if values is None:
        return ""
    share = float(np.mean(~np.isfinite(values).all(axis=0)))
    return f"; a class or pair was missing in {100 * share:.0f} % of the draws" if 0.005 < share < 1 else ""
