"""Worst mistakes, the evaluator that is asked for them, and principal components."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.evaluation.pictures import mistake_table, principal_components, spokesman, worst_mistakes
from histojax.evaluation.results import Predictions, Results


def spoken(name: str, shares: list[float], truth: list[int], units: list[str], fold=None) -> Predictions:
    p = np.array([[1 - share, share] for share in shares])
    return Predictions(name, "test", fold, np.array(units), np.array(truth), p.argmax(1), p)


def test_the_surest_mistakes_come_first_and_each_unit_once():
    folds = [
        spoken("t", [0.9, 0.6, 0.7], [0, 0, 1], ["a", "b", "c"], 0),
        spoken("t", [0.95, 0.99, 0.2], [0, 1, 1], ["a", "d", "b"], 1),
    ]
    found = worst_mistakes(folds)
    assert [(one.unit, round(one.stated, 2), one.truth) for one in found] == [("a", 0.95, 0), ("b", 0.8, 1)]
    assert mistake_table(found, ("no", "yes")).rows[0] == ["a", "no", "yes", "0.950", "0.050"]
    assert len(worst_mistakes(folds, most=1)) == 1


def test_votes_of_neighbours_speak_only_where_nobody_else_does():
    knn, probe = spoken("knn20", [0.1], [0], ["a"]), spoken("logistic", [0.1], [0], ["a"])
    for spoke, wanted in (((knn, probe), "logistic"), ((knn,), "knn20"), ((), "")):
        assert spokesman(Results("n", "patch", "classification", "label", ("x", "y"), spoke, ())) == wanted


@pytest.mark.parametrize("shape", [(30, 4), (5, 1), (3, 3)])
def test_components_are_of_centred_features(shape):
    x = np.random.default_rng(0).normal(size=shape) + 100
    points, shares = principal_components(x)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0)[: len(values)], values[:2], rtol=1e-3)
    np.testing.assert_allclose(shares[: len(values)], (values**2 / (values**2).sum())[:2], rtol=1e-3)
