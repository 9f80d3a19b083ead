"""Results survive their folder: every number comes back as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.results import Predictions, Results, Score, read_results, write_results


def classified(rng: np.random.Generator, fold: int | None = None) -> Predictions:
    shares = rng.dirichlet(np.ones(3), 7)
    units, groups = np.array([f"tile {i},é" for i in range(7)]), np.array(list("aabbccd"))
    return Predictions("knn", "test", fold, units, rng.integers(0, 3, 7), shares.argmax(1), shares, groups)


def test_every_number_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    parts = tuple(classified(rng, fold) for fold in (None, 0, 1))
    scores = (Score("knn", "test", "auroc", 0.1 + 0.2, how="x"), Score("knn", "test", "f1", math.nan, 0.0, 1.0, fold=1))
    written = Results("mine", "patch", "classification", "label", ("A", "B b", "C"), parts, scores, {"notes": ["n"]})
    write_results(tmp_path, written)
    read = read_results(tmp_path)
    assert read.score("knn", "auroc").value == 0.1 + 0.2 and math.isnan(read.scores[1].value)
    assert [p.fold for p in read.predictions] == [None, 0, 1] and read.facts == {"notes": ["n"]}
    for one, other in zip(parts, read.predictions):
        for key in ("units", "truth", "predicted", "probabilities", "groups"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


def test_survival_keeps_times_events_and_risks(tmp_path):
    one = Predictions(
        "t", "CPTAC", 0, np.array(["p", "q"]), np.array([1.5, 2]), np.array([0.1, -3]), events=np.array([1, 0])
    )
    write_results(tmp_path, Results("m", "slide", "survival", "os", (), (one,), ()))
    read = read_results(tmp_path).predictions[0]
    assert read.truth.tolist() == [1.5, 2] and read.events.tolist() == [1, 0] and read.predicted.tolist() == [0.1, -3]
    assert read.probabilities is None and read.groups is None


@pytest.mark.parametrize("damage", ["{", '{"format": "other"}', '{"format": "histojax results 1"}'])
def test_a_damaged_folder_is_named(tmp_path, damage):
    with pytest.raises(UserError, match="no folder of results"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(damage)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_results(tmp_path)


def test_facts_become_json(tmp_path):
    facts = {"a": np.float32(0.5), "b": [math.nan, np.int64(3)], "c": (np.array([1, 2]), tmp_path), "d": True}
    write_results(tmp_path, Results("m", "patch", "classification", "label", ("a",), (), (), facts))
    assert read_results(tmp_path).facts == {"a": 0.5, "b": [None, 3], "c": [[1, 2], str(tmp_path)], "d": True}
