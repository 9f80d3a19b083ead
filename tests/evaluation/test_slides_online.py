"""Patients by their mean features, while training."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.slides_online import check_patients, pool, slide_scores


def bags(signal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"p{i}" for i in range(30)], 8)
    labels = np.repeat(np.arange(30) % 2, 8)
    return rng.normal(size=(240, 6)) + signal * labels[:, None] * np.eye(6)[0], labels, groups


def test_patients_that_differ_are_told_apart_and_others_are_not():
    assert slide_scores(*bags(3.0))["slides_auroc"] > 0.95
    assert abs(slide_scores(*bags(0.0))["slides_auroc"] - 0.5) < 0.25


def test_pooling_is_the_mean_of_a_patient():
    pooled, truth = pool(np.array([[1.0, 2], [5, 5], [3, 4]]), np.array([1, 0, 1]), np.array(["b", "a", "b"]))
    assert pooled.tolist() == [[5, 5], [2, 3]] and truth.tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels, groups, message",
    [
        ([0, 1], ["a", ""], "1 of 2 tiles have no patient"),
        ([0, 1, 1], ["a", "a", "b"], "patient a have different labels"),
        ([0, 1, 1], ["a", "b", "c"], "two classes of at least two patients"),
        ([1, 1], ["a", "b"], "two classes"),
    ],
)
def test_what_cannot_be_judged_is_refused(labels, groups, message):
    with pytest.raises(UserError, match=message):
        check_patients(np.array(labels), np.array(groups), "set")
