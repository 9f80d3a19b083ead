"""Tests of two models on the same units: is the difference more than the luck of these patients, of these folds?

Each returns a `Test`; differences are a - b. Where units belong to groups (patients, slides), groups are what was
drawn from the world, and every test but McNemar's counts them, not their units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from histojax.evaluation.intervals import LEVEL, interval


@dataclass(frozen=True)
class Test:
    """A test of no difference.

    Args:
        name: of the test, in words.
        statistic: as its authors define it (z, t, number of discordant pairs ...).
        p: two-sided.
        difference: a - b; low, high: its interval, NaN where the test has none.
    """

    __test__ = False  # not one of pytest's

    name: str
    statistic: float
    p: float
    difference: float
    low: float = math.nan
    high: float = math.nan


def delong(
    truth: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = LEVEL,
) -> Test:
    """Difference of two AUROCs of the same units (DeLong et al. 1988); with groups after Obuchowski (1997).

    `truth` (n,) is 1 for positive, else 0; `a`, `b` (n,) are scores, larger for positive. NaN with one class alone.
    """
    units = np.arange(len(truth)).astype(str)
    return delong_folds([truth], [a], [b], [units if groups is None else np.asarray(groups)], level)


def delong_folds(
    truth: Sequence[np.ndarray],
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    level: float = LEVEL,
) -> Test:
    """The same of the mean AUROC over folds. A group that several folds judged is one witness, not several.

    Each sequence has an (n,) array for each fold. Folds that lack a class are left out.
    """
    parts = [(t == 1, x - y, g) for t, x, y, g in _placements(truth, a, b, groups)]
    if not parts:
        return Test("DeLong", math.nan, math.nan, math.nan)
    means = [(d[p].mean(), d[~p].mean()) for p, d, _ in parts]
    difference = float(np.mean([up for up, _ in means]))
    pulls, names = [], []  # how far each unit pulls the difference away from its mean
    for (positive, d, group), (up, down) in zip(parts, means):
        weight = np.where(positive, _share(positive.sum()), _share((~positive).sum()))
        pulls.append((d - np.where(positive, up, down)) * weight / len(parts))
        names.append(group)
    table, place = np.unique(np.concatenate(names), return_inverse=True)
    together = np.bincount(place, np.concatenate(pulls))
    alone = len(table) == len(place)  # the factors for small samples are in the shares then
    error = math.sqrt(float((together**2).sum()) * (1 if alone or len(table) < 2 else len(table) / (len(table) - 1)))
    if alone:
        return _normal("DeLong", difference, error, level)
    z, p = _student(difference, error, max(len(table) - 2, 1))
    reach = float(stats.t.ppf((1 + level) / 2, max(len(table) - 2, 1))) * error
    return Test("DeLong of groups", z, _at_least(p, len(table)), difference, difference - reach, difference + reach)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> Test:
    """Exact McNemar test (1947) of two (n,) bool: which units each got right; the statistic: how many a alone did.

    The difference is that of the accuracies, without interval. Units are taken for independent.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return Test("exact McNemar", only_a, float(p), (only_a - only_b) / max(len(right_a), 1))


def paired_bootstrap(
    a: float, b: float, drawn_a: np.ndarray, drawn_b: np.ndarray, witnesses: int, level: float = LEVEL
) -> Test:
    """Difference of any score, from its values (draws,) on the same bootstrap draws of both models.

    p is of t = difference / standard deviation of the drawn differences, with one degree of freedom less than there
    are `witnesses` (units or groups drawn): for few, more honest than counting draws beyond 0. The interval is the
    middle of the drawn differences. tools/check_compare.py measures how often it is wrong.
    """
    drawn = drawn_a - drawn_b
    known = drawn[np.isfinite(drawn)]
    difference = a - b
    if len(known) < max(2, len(drawn) / 2) or witnesses < 2:
        return Test("paired bootstrap", math.nan, math.nan, difference)
    error = float(known.std(ddof=1)) * math.sqrt(witnesses / (witnesses - 1))
    t, p = _student(difference, error, witnesses - 1)
    return Test("paired bootstrap", t, _at_least(p, witnesses), difference, *interval(drawn, level))


def corrected_t(a: Sequence[float], b: Sequence[float], test_to_train: float, level: float = LEVEL) -> Test:
    """Corrected resampled t-test over folds (Nadeau and Bengio 2003): trained anew, would it come out the same?

    `a`, `b` are the scores of each fold, `test_to_train` how many were tested for each one trained on (1/3 in
    60/20/20). Folds share most of their training patients, which the plain t-test takes for independent.
    """
    differences = np.asarray(a, float) - np.asarray(b, float)
    differences = differences[np.isfinite(differences)]
    count, name = len(differences), "corrected t-test over folds"
    if count < 2:
        return Test(name, math.nan, math.nan, float(differences.mean()) if count else math.nan)
    error = math.sqrt((1 / count + test_to_train) * float(differences.var(ddof=1)))
    difference = float(differences.mean())
    t, p = _student(difference, error, count - 1)
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Test(name, t, p, difference, difference - reach, difference + reach)


def holm(p: Sequence[float]) -> np.ndarray:
    """(n,) p-values adjusted for n tests (Holm 1979); NaN stays, and counts as no test."""
    given = np.asarray(p, float)
    known = np.flatnonzero(np.isfinite(given))
    order = known[np.argsort(given[known], kind="stable")]
    adjusted = np.full(len(given), np.nan)
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1)
    return adjusted


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of k models over blocks (tasks); 1 is the best, equals share theirs.

    Args:
        means: (k,).
        blocks: how many were ranked.
        p: Friedman's test of no difference at all; NaN below 2 blocks or 3 models.
        critical: mean ranks nearer than this are not resolved (Nemenyi; Demsar 2006), NaN below 2 blocks.
    """

    means: np.ndarray
    blocks: int
    p: float
    critical: float


def mean_ranks(scores: np.ndarray, level: float = LEVEL) -> Ranks:
    """Ranks of scores (blocks, k), larger is better; blocks with a NaN are left out."""
    scores = scores[np.isfinite(scores).all(axis=1)]
    count, models = scores.shape
    if not count:
        return Ranks(np.full(models, np.nan), 0, math.nan, math.nan)
    means = stats.rankdata(-scores, axis=1).mean(axis=0)
    if count < 2 or models < 2:
        return Ranks(means, count, math.nan, math.nan)
    quantile = float(stats.studentized_range.ppf(level, models, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(models * (models + 1) / (6 * count))
    tied = bool((scores == scores[:, :1]).all())
    p = math.nan if models < 3 or tied else float(stats.friedmanchisquare(*scores.T).pvalue)
    return Ranks(means, count, p, critical)


def _placements(
    truth: Sequence[np.ndarray], a: Sequence[np.ndarray], b: Sequence[np.ndarray], groups: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(truth, placements under a, under b, groups) of each fold that has both classes.

    A positive's placement is the share of negatives below it, a negative's that of positives above; ties half (Sun
    and Xu 2014).
    """
    found = []
    for t, x, y, g in zip(truth, a, b, groups):
        t = np.asarray(t)
        if (t == 1).any() and (t != 1).any():
            found.append((t, _placement(t == 1, np.asarray(x)), _placement(t == 1, np.asarray(y)), np.asarray(g)))
    return found


def _placement(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    ups, downs = int(positive.sum()), int((~positive).sum())
    among_all = stats.rankdata(score)
    own = np.empty(len(score))
    own[positive], own[~positive] = stats.rankdata(score[positive]), stats.rankdata(score[~positive])
    below = among_all - own  # of the other class, ties half
    return np.where(positive, below / downs, 1 - below / ups)


def _share(count: int) -> float:
    """Weight of one of so many units; one alone has no spread, and weighs nothing."""
    return 1 / math.sqrt(count * (count - 1)) if count > 1 else 0.0


def _normal(name: str, difference: float, error: float, level: float) -> Test:
    if error == 0:  # no unit pulls: equal models, or two that part the classes without a mistake
        return Test(name, 0.0, 1.0, difference, difference, difference)
    z, reach = difference / error, float(stats.norm.ppf((1 + level) / 2)) * error
    return Test(name, z, float(2 * stats.norm.sf(abs(z))), difference, difference - reach, difference + reach)


def _student(difference: float, error: float, freedom: int) -> tuple[float, float]:
    if error <= 1e-12 * abs(difference):
        return (0.0, 1.0) if difference == 0 else (math.copysign(math.inf, difference), 0.5**freedom)
    t = difference / error
    return t, float(2 * stats.t.sf(abs(t), freedom))


def _at_least(p: float, witnesses: int) -> float:
    """p, but no less than if all witnesses had spoken for one side: 2 of 2**n outcomes (the sign test)."""
    return max(p, 0.5 ** (witnesses - 1))
