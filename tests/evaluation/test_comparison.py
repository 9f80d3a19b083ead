"""Runs are compared only where they may be, and "better" is said only where every test says so."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from check_compare import KINDS, check

from histojax.common.errors import UserError
from histojax.evaluation.comparison import compare
from histojax.evaluation.paired import delong, mcnemar
from histojax.evaluation.pairing import named_runs
from histojax.evaluation.results import Predictions, Results

BINARY = ("wild", "mutant")


def judged(skill, truth, units, fold=None, groups=None, seed=0, part="test"):
    noise = np.random.default_rng([seed, fold or 0]).normal(size=len(truth))
    p = 1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise)))
    shares = np.stack([1 - p, p], axis=1)
    return Predictions("mean", part, fold, units, truth, shares.argmax(axis=1), shares, groups)


def one_model(name, skill, n=120, groups=None, seed=0):
    truth, units = np.arange(n) % 2, np.array([f"u{i}" for i in range(n)])
    said = judged(skill, truth, units, None, groups, seed)
    return Results(name, "patch", "classification", "label", BINARY, (said,), ())


def five_folds(name, skills, seed=0, per_fold=60):
    parts = []
    for fold, skill in enumerate(skills):
        units = np.array([f"{fold}-{i}" for i in range(per_fold)])
        parts.append(judged(skill, np.arange(per_fold) % 2, units, fold, None, seed))
    return Results(name, "slide", "classification", "MSI", BINARY, tuple(parts), ())


def table(results, metric="auroc", **options):
    found = compare(named_runs(results), **{"draws": 200, **options})
    return next(t for t in found.tables if t.metric == metric)


def test_a_large_difference_is_claimed_a_small_one_is_not():
    three = [one_model("a", 2.0), one_model("b", 0.3, seed=1), one_model("c", 0.35, seed=2)]
    found = table(three)
    words = {(p.a, p.b): p.words for p in found.pairs}
    assert found.main and found.order()[0] == 0
    assert words["a", "b"] == words["a", "c"] == "a is better" and words["b", "c"] == "no difference can be claimed"
    assert found.together() == [(1, 2)]
    raw = delong(*(three[0].predictions[0].truth,), *(r.predictions[0].probabilities[:, 1] for r in three[1:]))
    assert next(p for p in found.pairs if p.a == "b").patients == raw


def test_order_of_units_does_not_matter_and_smaller_is_better_for_losses():
    a, b = one_model("a", 2.0), one_model("b", 0.3, seed=1)
    said = b.predictions[0]
    order = np.random.default_rng(3).permutation(120)
    turned = replace(said, **{k: getattr(said, k)[order] for k in ("units", "truth", "predicted", "probabilities")})
    assert table([a, replace(b, predictions=(turned,))]) == table([a, b])
    assert table([a, b], "log_loss").pairs[0].better == "a"
    accuracy = table([a, b], "accuracy").pairs[0].patients
    right = [r.predictions[0].predicted == r.predictions[0].truth for r in (a, b)]
    assert accuracy.p == mcnemar(*right).p and accuracy.low < accuracy.difference < accuracy.high


def test_groups_that_one_run_knows_are_drawn_for_both():
    groups = np.array([f"p{i // 20}" for i in range(120)])
    found = table([one_model("a", 0.8, groups=groups), one_model("b", 0.6, seed=1)], "accuracy")
    assert found.witnesses == 6 and found.grouped and found.pairs[0].patients.name == "paired bootstrap"


def test_folds_that_disagree_do_not_resolve_what_patients_do():
    steady = [five_folds("a", [2.0] * 5), five_folds("b", [0.7] * 5, 1)]
    assert table(steady).pairs[0].words == "a is better"
    torn = [five_folds("a", [2.5, 2.5, 2.5, 0.1, 0.4], per_fold=100), five_folds("b", [0.5] * 5, 1, per_fold=100)]
    pair = table(torn).pairs[0]
    assert pair.patients.p < 0.05 < pair.folds.p and pair.better == ""
    assert "5 folds do not resolve it" in pair.words and "these folds resolve 0." in pair.words


def test_runs_of_other_units_folds_truths_and_targets_are_refused():
    a = five_folds("a", [1.0] * 5)
    with pytest.raises(UserError, match="one run alone"):
        compare(named_runs([a]))
    with pytest.raises(UserError, match=r"other target \(BRAF, not MSI\)"):
        compare(named_runs([replace(a, target="BRAF"), a]))
    with pytest.raises(UserError, match="other protocol"):
        compare(named_runs([a, one_model("b", 1.0)]))
    with pytest.raises(UserError, match=r"other test units \(250, not 300; 50 in one"):
        compare(named_runs([five_folds("b", [1.0] * 5, per_fold=50), a]))
    shifted = tuple(replace(p, fold=(p.fold + 1) % 5) for p in a.predictions)
    with pytest.raises(UserError, match=r"fold 0: b and a judged other units .*same fold file"):
        compare(named_runs([a, replace(a, name="b", predictions=shifted)]))
    with pytest.raises(UserError, match=r"has folds 0, 1, 2, 3, a 0, 1, 2, 3, 4"):
        fewer = (*a.predictions[:3], replace(judged_all(a.predictions[3:]), fold=3))
        compare(named_runs([a, replace(a, name="b", predictions=fewer)]))
    turned = tuple(replace(p, truth=1 - p.truth) for p in a.predictions)
    with pytest.raises(UserError, match="another truth for 60 units"):
        compare(named_runs([a, replace(a, name="b", predictions=turned)]))
    twice = replace(a.predictions[0], units=np.array(["0-0"] * 60))
    with pytest.raises(UserError, match="unit 0-0 was judged twice"):
        compare(named_runs([replace(a, predictions=(twice,)), replace(a, predictions=(twice,))]))


def judged_all(parts):
    joined = {
        k: np.concatenate([getattr(p, k) for p in parts]) for k in ("units", "truth", "predicted", "probabilities")
    }
    return replace(parts[0], **joined)


def test_units_of_both_alone_are_compared_on_demand_and_counted():
    a, b = one_model("a", 1.0), one_model("b", 1.0, 118, seed=1)
    with pytest.raises(UserError, match="--common"):
        compare(named_runs([a, b]))
    found = compare(named_runs([a, b]), common=True, draws=50)
    assert found.tables[0].witnesses == 118 and found.notes == (
        "mean, test: 2 units that not every run judged are left out",
    )


def test_ranks_over_several_tasks_and_names_of_equal_runs():
    runs = [one_model("a", 1.0), one_model("b", 0.2, seed=1), five_folds("a", [1.0] * 5), five_folds("b", [0.2] * 5, 1)]
    found = compare(named_runs(runs), draws=50)
    assert found.ranked == ("a", "b") and found.ranks.means.tolist() == [1, 2] and found.ranks.blocks == 2
    assert [run.name for run in named_runs([runs[0]] * 2, ["x", "y"])] == ["a (x)", "a (y)"]


def test_metrics_are_chosen_and_unknown_ones_named():
    runs = named_runs([one_model("a", 1.0), one_model("b", 1.0, seed=1)])
    found = compare(runs, ["kappa"], draws=50)
    assert [(t.metric, t.main) for t in found.tables] == [("kappa", True)]
    with pytest.raises(UserError, match="metric f2: the runs have no such score"):
        compare(runs, ["f2"], draws=50)
    with pytest.raises(UserError, match="metric f2: "):
        compare(runs, ["kappa", "f2"], draws=50)


def test_survival_and_regression():
    rng = np.random.default_rng(0)
    time, units = rng.exponential(size=80), np.arange(80).astype(str)
    says = [Predictions("t", "test", None, units, time, -time + s * rng.normal(size=80)) for s in (0.1, 5.0)]
    survival = [
        Results(n, "slide", "survival", "os", (), (replace(p, events=np.ones(80, int)),), ())
        for n, p in zip("ab", says)
    ]
    assert table(survival, "concordance").pairs[0].words == "a is better"
    regression = [
        Results(n, "slide", "regression", "age", (), (replace(p, predicted=-p.predicted),), ())
        for n, p in zip("ab", says)
    ]
    assert table(regression, "mae").pairs[0].better == "a" and math.isfinite(table(regression, "r2").scores[1].low)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[4]], ids=lambda kind: kind.name)
def test_equal_models_are_rarely_told_apart(kind):
    """30 null pairs; the tool draws 500 of each kind."""
    found = check(kind, 30, 60)
    assert found["claims"] <= found["limit"] <= 0.2
    if kind.folds:  # why folds are asked: patients alone take the luck of a training for skill
        assert found["auroc"] > 0.05 >= found["folds"]
