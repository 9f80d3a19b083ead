"""Paired tests against scipy, brute force and published small examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from histojax.evaluation.intervals import drawn_counts
from histojax.evaluation.paired import corrected_t, delong, delong_folds, holm, mcnemar, mean_ranks, paired_bootstrap


def scores(n=60, per_group=1, seed=0, effect=(1.2, 0.7)):
    """Truth, two correlated scores with ties, groups."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) // per_group
    truth = rng.integers(0, 2, n)[group]  # a patient has one label
    common = rng.normal(size=n) + rng.normal(size=n)[group]
    a, b = (np.round(e * truth + common + rng.normal(size=n) + rng.normal(size=n)[group], 1) for e in effect)
    return truth, a, b, group.astype(str)


def area(truth, x):
    """AUROC by the rank sum of the positives."""
    up = int(truth.sum())
    return (stats.rankdata(x)[truth == 1].sum() - up * (up + 1) / 2) / (up * (len(truth) - up))


def variance_by_definition(truth, a, b):
    """Of the difference: DeLong, DeLong and Clarke-Pearson 1988, equations 4 to 6, pair by pair."""
    up, down = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    placed = []
    for x in (a, b):
        wins = (x[up, None] > x[down]) + 0.5 * (x[up, None] == x[down])
        placed.append((wins.mean(axis=1), wins.mean(axis=0)))
    over_up, over_down = (np.cov(np.stack([p[i] for p in placed])) for i in (0, 1))
    contrast = np.array([1, -1])
    return contrast @ (over_up / len(up) + over_down / len(down)) @ contrast


def test_delong_is_its_definition():
    truth, a, b, _ = scores()
    found = delong(truth, a, b)
    difference = roc_auc_score(truth, a) - roc_auc_score(truth, b)
    error = math.sqrt(variance_by_definition(truth, a, b))
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.statistic == pytest.approx(difference / error, rel=1e-10)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(difference / error)), rel=1e-10)
    assert (found.low, found.high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=1e-4)


@pytest.mark.parametrize(("n", "per_group"), [(150, 1), (600, 10)])
def test_delong_agrees_with_a_brute_force_bootstrap(n, per_group):
    truth, a, b, groups = scores(n, per_group, seed=1)
    found = delong(truth, a, b, groups)
    rows = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        i = np.concatenate([rows[j] for j in rng.integers(0, len(rows), len(rows))])
        drawn.append(area(truth[i], a[i]) - area(truth[i], b[i]))
    error = found.difference / found.statistic
    assert error == pytest.approx(np.std(drawn), rel=0.1)
    alone = delong(truth, a, b)
    if per_group > 1:  # units taken for witnesses are too sure
        assert error > 1.5 * alone.difference / alone.statistic


def test_delong_over_folds_apart_and_of_one_cohort():
    truth, a, b, groups = scores(120)
    half = np.arange(120) < 60
    parts = [[x[half], x[~half]] for x in (truth, a, b, groups)]
    apart = delong_folds(*parts)
    errors = [delong(*(x[i] for x in parts[:3])) for i in (0, 1)]
    expected = math.hypot(*(e.difference / e.statistic for e in errors)) / 2
    assert apart.difference == pytest.approx(np.mean([e.difference for e in errors]))
    assert apart.difference / apart.statistic == pytest.approx(expected, rel=1e-9)
    same = delong_folds([truth] * 2, [a] * 2, [b] * 2, [groups] * 2)  # two equal models are one witness
    single = delong(truth, a, b)
    assert same.difference / same.statistic == pytest.approx(single.difference / single.statistic, rel=0.02)


def test_delong_without_a_class_or_a_difference():
    assert math.isnan(delong(np.ones(4), np.arange(4.0), np.arange(4.0)).p)
    truth, a, *_ = scores()
    assert delong(truth, a, a).p == 1


def test_mcnemar_of_statsmodels_example():
    a = np.repeat([1, 1, 0, 0], [101, 121, 59, 33]).astype(bool)  # of [[101, 121], [59, 33]]
    b = np.repeat([1, 0, 1, 0], [101, 121, 59, 33]).astype(bool)
    found = mcnemar(a, b)
    assert found.p == pytest.approx(4.43445e-06, rel=1e-5)
    assert (found.statistic, found.difference) == (121, pytest.approx(62 / 314))
    assert mcnemar(a, a).p == 1


def test_holm_as_p_adjust_of_r():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)
    assert holm([0.7, 0.6]).tolist() == [1, 1] and holm([]).size == 0


def test_the_corrected_test_is_the_plain_one_without_overlap():
    a, b = np.array([0.8, 0.85, 0.78, 0.9, 0.82]), np.array([0.75, 0.86, 0.7, 0.88, 0.8])
    plain, found = stats.ttest_rel(a, b), corrected_t(a, b, 0.0)
    assert (found.statistic, found.p) == pytest.approx((plain.statistic, plain.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval()))
    shrunk = corrected_t(a, b, 1 / 3)  # sqrt((1/5) / (1/5 + 1/3)) of it
    assert shrunk.statistic == pytest.approx(plain.statistic * math.sqrt(0.2 / (0.2 + 1 / 3)))
    assert math.isnan(corrected_t([0.5], [0.4], 0.3).p)


def test_paired_bootstrap_of_a_mean_is_the_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40)) + np.array([[0.4], [0.0]])
    (drawn,) = next(drawn_counts([np.arange(40)], 4000))
    found = paired_bootstrap(a.mean(), b.mean(), drawn @ a / 40, drawn @ b / 40, 40)
    plain = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(plain.pvalue, rel=0.15)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval()), abs=0.03)


def test_three_patients_prove_nothing():
    found = paired_bootstrap(0.9, 0.5, np.full(100, 0.9), np.full(100, 0.5), 3)
    assert found.p == 0.25  # three coins that fall alike
    assert math.isnan(paired_bootstrap(0.9, 0.5, np.full(100, math.nan), np.full(100, 0.5), 30).p)


def test_mean_ranks_and_their_critical_distance():
    scores = np.random.default_rng(0).normal(size=(14, 4)) + np.array([0, 1, 0.2, 1])
    scores[0] = 0.5  # equal: 2.5 each
    found = mean_ranks(scores)
    assert found.means == pytest.approx(stats.rankdata(-scores, axis=1).mean(axis=0)) and found.means.argmax() == 0
    assert found.critical == pytest.approx(1.25, abs=0.005)  # of 4 models on 14 sets: Demsar 2006, section 3.2.2
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    one = mean_ranks(np.array([[0.5, 0.6]]))
    assert one.means.tolist() == [2, 1] and math.isnan(one.critical)
