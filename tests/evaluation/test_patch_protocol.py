"""The patch protocol on arrays: its scores are scikit-learn's, and what it cannot judge it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from histojax.common.errors import UserError
from histojax.evaluation.patch_input import PatchSet
from histojax.evaluation.patch_protocol import PatchSettings, evaluate_patch, hold_out
from histojax.evaluation.results import read_results, write_results

QUICK = PatchSettings(k=5, shots=(1, 2), few_draws=3, draws=20)


def tiles(count: int, seed: int, groups: bool = True, centres: bool = False) -> PatchSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = (rng.normal(size=(count, 8)) + 2 * np.eye(8)[labels]).astype(np.float32)
    names = np.array([f"{seed}-{i}" for i in range(count)])
    patients = np.array([f"s{seed}p{i // 6}" for i in range(count)]) if groups else None
    where = np.array([f"c{i // 6 % 3}" for i in range(count)]) if centres else None
    return PatchSet(features, labels, ("a", "b", "c"), names, patients, "patient" * groups, where, where=f"set{seed}")


def test_scores_are_those_of_scikit_learn_and_survive_the_folder(tmp_path):
    train, test = tiles(90, 0), tiles(60, 1, centres=True)
    settings = dataclasses.replace(QUICK, distances=("raw", "centred", "cosine"))
    judged = evaluate_patch(train, test, settings, "mine", say=lambda text: None)
    names = {one.evaluator for one in judged.results.predictions}
    assert names == {"knn", "knn_centred", "knn_cosine", "logistic", "simpleshot"}
    reference = KNeighborsClassifier(5).fit(train.features, train.labels)
    knn = next(one for one in judged.results.predictions if one.evaluator == "knn")
    np.testing.assert_allclose(knn.probabilities, reference.predict_proba(test.features), atol=1e-12)
    score = judged.results.score("knn", "balanced_accuracy")
    assert score.value == pytest.approx(balanced_accuracy_score(test.labels, reference.predict(test.features)))
    assert score.low < score.value < score.high and "10 groups of 60" in score.how
    assert set(judged.results.facts) >= {"retrieval", "few_shot", "robustness", "train", "test", "logistic", "features"}
    write_results(tmp_path, judged.results)
    assert read_results(tmp_path).score("logistic", "auroc").value == judged.results.score("logistic", "auroc").value


def test_whole_patients_are_held_out():
    one = tiles(120, 0)
    train, test, how = hold_out(one, 0.25)
    assert not set(train.groups) & set(test.groups) and len(train) + len(test) == 120 and 20 <= len(test) <= 40
    assert "by patient" in how
    assert "patients unknown" in hold_out(dataclasses.replace(one, groups=None), 0.5)[2]


def test_a_class_is_never_held_out_whole():
    one = tiles(24, 0, groups=False)
    rare = dataclasses.replace(one, labels=np.where(np.arange(24) == 5, 2, np.arange(24) % 2))
    for seed in range(4):
        train, test, _ = hold_out(rare, 0.25, seed)
        assert train.classes == ("a", "b", "c") and test.classes == ("a", "b")
    with pytest.raises(UserError, match="no class has the 4 tiles"):
        hold_out(one.take(np.arange(6)), 0.25)
    with pytest.raises(UserError, match="too few patients of a class"):
        hold_out(dataclasses.replace(tiles(24, 0), labels=np.arange(24) // 6, classes=tuple("abcd")), 0.25)


def test_what_cannot_be_judged_is_refused():
    train, test = tiles(30, 0), tiles(30, 1)
    with pytest.raises(UserError, match="has 30 tiles"):
        evaluate_patch(train, test, dataclasses.replace(QUICK, k=31))
    with pytest.raises(UserError, match="one or more of raw, centred, cosine"):
        evaluate_patch(train, test, dataclasses.replace(QUICK, distances=("manhattan",)))
    alone = dataclasses.replace(train, labels=np.zeros(30, np.int64), classes=("a",))
    with pytest.raises(UserError, match="all tiles are of the class a"):
        evaluate_patch(alone, dataclasses.replace(alone, where="other"), QUICK)
    with pytest.raises(UserError, match="do not split into 4 parts"):
        hold_out(train.take(np.arange(12)), 0.25)
