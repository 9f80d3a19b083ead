"""Bootstrap intervals: groups are drawn, folds are kept apart or drawn together, and what cannot be said is not."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from histojax.evaluation.intervals import bootstrap, drawn_counts, over_folds, scored
from histojax.evaluation.results import Predictions

CLASSES = ("A", "B")


def judged(units: int = 200, per_group: int = 1, seed: int = 0, fold: int | None = None) -> Predictions:
    """Right with probability 0.8, the same for all units of a group."""
    rng = np.random.default_rng(seed)
    number = np.arange(units) // per_group
    truth = number % 2
    sure = np.where(rng.random(units)[number] < 0.8, 0.7, 0.3)
    shares = np.stack([np.where(truth == 0, sure, 1 - sure), np.where(truth == 1, sure, 1 - sure)], axis=1)
    groups = None if per_group == 1 else np.array([f"{fold} p{i}" for i in number])
    names = np.array([f"{fold} u{i}" for i in range(units)])
    return Predictions("knn", "test", fold, names, truth, shares.argmax(axis=1), shares, groups)


def accuracy_of(scores):
    return next(s for s in scores if s.metric == "accuracy" and s.fold is None)


def test_the_interval_of_a_mean_is_the_binomial_one():
    one = accuracy_of(scored(judged(400), "classification", CLASSES))
    width = 1.96 * math.sqrt(one.value * (1 - one.value) / 400)
    assert one.low == pytest.approx(one.value - width, abs=0.01)
    assert one.high == pytest.approx(one.value + width, abs=0.01)
    assert "1000 bootstrap draws of 400 units" in one.how


def test_groups_are_drawn_where_they_are_known():
    alone, grouped = judged(400, 20), judged(400, 20)
    alone = Predictions(*(getattr(alone, k) for k in ("evaluator", "part", "fold", "units", "truth", "predicted")))
    narrow = accuracy_of(scored(alone, "classification", CLASSES))
    wide = accuracy_of(scored(grouped, "classification", CLASSES))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert "20 groups of 400 units" in wide.how


def test_the_same_seed_gives_the_same_interval_whatever_the_block():
    a = np.concatenate([b[0] for b in drawn_counts([np.arange(30)], 20, 1)])
    b = np.concatenate([b[0] for b in drawn_counts([np.arange(30)], 20, 1, block=100)])
    np.testing.assert_array_equal(a, b)
    assert (a.sum(axis=1) == 30).all()


def test_folds_apart_keep_their_size_and_folds_of_one_cohort_share_the_draw():
    apart = next(drawn_counts([np.array(["a", "b"]), np.array(["c", "d", "e"])], 50))
    assert (apart[0].sum(axis=1) == 2).all() and (apart[1].sum(axis=1) == 3).all()
    together = next(drawn_counts([np.array(["a", "b", "b"]), np.array(["b", "a", "a"])], 50))
    np.testing.assert_array_equal(together[0][:, 0], together[1][:, 1])
    np.testing.assert_array_equal(together[0][:, 1], together[0][:, 2])


def test_folds_give_mean_spread_and_each():
    folds = [judged(100, 2, seed, seed) for seed in range(5)]
    found = [s for s in over_folds(folds, "classification", CLASSES, draws=200) if s.metric == "accuracy"]
    total, each = found[0], [s.value for s in found[1:]]
    assert [s.fold for s in found] == [None, 0, 1, 2, 3, 4]
    assert total.value == pytest.approx(np.mean(each)) and total.spread == pytest.approx(np.std(each))
    assert total.high - total.low < found[1].high - found[1].low
    assert "of 5 folds" in total.how and "250 groups, within each fold" in total.how


def test_a_fold_without_a_class_is_left_out_and_counted():
    folds = [judged(60, 1, 0, 0), judged(60, 1, 1, 1)]
    keep = folds[1].truth == 0
    folds[1] = Predictions(
        "knn", "test", 1, *(getattr(folds[1], k)[keep] for k in ("units", "truth", "predicted", "probabilities"))
    )
    found = {(s.metric, s.fold): s for s in over_folds(folds, "classification", CLASSES, draws=50)}
    assert found["auroc", None].value == found["auroc", 0].value and math.isnan(found["auroc", 1].value)
    assert "of 1 folds (of 2: the others do not define it)" in found["auroc", None].how


def test_one_patient_has_no_interval_and_few_are_said_to_be_few():
    one = accuracy_of(scored(judged(20, 20), "classification", CLASSES))
    assert math.isnan(one.low) and "no interval" in one.how
    assert "too narrow" in accuracy_of(scored(judged(80, 20), "classification", CLASSES)).how
    none = accuracy_of(scored(judged(80), "classification", CLASSES, draws=0))
    assert math.isnan(none.low) and none.value > 0
    assert bootstrap(lambda w: {"x": np.full(len(w), np.nan)}, 5)["x"] == pytest.approx(
        (math.nan, math.nan), nan_ok=True
    )


def test_the_interval_holds_the_score_of_the_population():
    """95 in 100, here of 60 cohorts; the calibration error, which resampling makes larger, gets none."""
    population = {s.metric: s.value for s in scored(judged(40_000), "classification", CLASSES, draws=0)}
    held = {}
    for seed in range(60):
        for s in scored(judged(100, 1, seed + 1), "classification", CLASSES, draws=100):
            held.setdefault(s.metric, []).append(s.low <= population[s.metric] <= s.high)
    assert (
        min(sum(held[m]) for m in ("accuracy", "balanced_accuracy", "auroc", "kappa", "brier")) >= 50
    )  # less: 1 in 1,000
    ece = next(s for s in scored(judged(100), "classification", CLASSES) if s.metric == "ece")
    assert math.isnan(ece.low) and "without interval" in ece.how


def test_a_thousand_draws_of_the_papers_test_set_are_quick():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, 7180)
    shares = rng.dirichlet(np.ones(9), 7180)
    one = Predictions("knn", "test", None, np.arange(7180).astype(str), truth, shares.argmax(axis=1), shares)
    start = time.process_time()
    scored(one, "classification", tuple("ABCDEFGHI"), draws=50)
    assert time.process_time() - start < 2  # 0.1 s alone; a draw at a time, with scikit-learn, takes 3 s
