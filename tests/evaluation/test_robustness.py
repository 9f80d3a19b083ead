"""Features of the tissue, of the centre, of both and of neither are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation import robustness as module
from histojax.evaluation.robustness import robustness, sentences


def units(tissue, centre, n=240, seed=0):
    rng = np.random.default_rng(seed)
    labels, centres = np.arange(n) % 3, np.arange(n) // 3 % 2
    x = rng.normal(size=(n, 8))
    x[:, :3] += tissue * np.eye(3)[labels]
    x[:, 3:5] += centre * np.eye(2)[centres]
    return x.astype(np.float32), labels, np.array(["A", "B"])[centres], (np.arange(n) // 6).astype(str)


def test_tissue_alone_and_centre_alone():
    x, labels, centres, _ = units(8, 0)
    found = robustness(x, labels, centres, None, k=5)
    assert found["index"] > 0.99 and abs(found["centre_accuracy"] - 0.5) < 0.12
    assert found["index_by_chance"] == pytest.approx(1 / 3, abs=0.01)  # (1/3 x 1/2) to (2/3 x 1/2)
    x, labels, centres, _ = units(0, 8)
    found = robustness(x, labels, centres, None, k=5)
    assert found["index"] < 0.01 and found["centre_accuracy"] > 0.99 and found["centres"] == {"A": 120, "B": 120}
    json.dumps(found, allow_nan=False)
    assert "balanced accuracy 1.000 (chance 0.500, 2 centres)" in sentences(found)[0]


def index_by_hand(x, labels, centres, groups, k):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    good = bad = 0
    for i in range(len(x)):
        near = [j for j in np.argsort(-(x @ x[i])) if groups[j] != groups[i]][:k]
        good += sum(labels[j] == labels[i] and centres[j] != centres[i] for j in near)
        bad += sum(labels[j] != labels[i] and centres[j] == centres[i] for j in near)
    return good / (good + bad)


def test_the_index_by_hand_leaves_the_own_group_out(monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 50)
    x, labels, _, groups = units(2, 2, 90)
    centres = np.array(["A", "B"])[groups.astype(int) % 2]
    x += 5 * np.random.default_rng(1).normal(size=(15, 8))[groups.astype(int)]  # units of a group are alike
    found = robustness(x, labels, centres, groups, k=7)
    assert found["index"] == pytest.approx(index_by_hand(x, labels, centres, groups, 7))


def test_a_group_that_is_known_again_is_no_centre():
    x, labels, _, groups = units(0, 0, 240)
    centres = np.array(["A", "B"])[groups.astype(int) % 2]
    x = np.random.default_rng(1).normal(size=(40, 50))[groups.astype(int)] + 0.01 * x[:, :1]
    alone, grouped = (robustness(x, labels, centres, g)["centre_accuracy"] for g in (None, groups))
    assert grouped < 0.65 and alone > 0.9


def test_what_is_left_out_and_what_cannot_be_judged(monkeypatch):
    x, labels, centres, groups = units(1, 1, 60)
    labels[:3], centres[3:5] = -1, ""
    found = robustness(x, labels, centres, np.where(centres == "B", "one slide", groups))
    assert found["units"] == 55 and found["centre_accuracy"] is None
    assert any("5 of 60 units without class or centre" in note for note in found["notes"])
    assert any("1 centres have one patient or slide" in note for note in found["notes"])
    together = robustness(x, (centres == "B").astype(int), centres)
    assert together["association"] > 0.9 and any("go together" in note for note in together["notes"])
    monkeypatch.setattr(module, "MOST", 30)
    assert robustness(x, labels, centres)["units"] == 30
    with pytest.raises(UserError, match="1 centre is known"):
        robustness(x, labels, np.full(60, "A"))
