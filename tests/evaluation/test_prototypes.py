import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from histojax.common.errors import UserError
from histojax.evaluation import prototypes
from histojax.evaluation.knn import centre_l2
from histojax.evaluation.metrics import balanced_accuracy


def tiles(seed=0, n=90, queries=40, d=8, classes=3, spread=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n + queries) % classes)
    x = rng.normal(size=(classes, d))[labels] + spread * rng.normal(size=(n + queries, d)) + 5
    return x[:n].astype(np.float32), labels[:n], x[n:].astype(np.float32), labels[n:]


def test_equal_to_nearest_centroid_of_centred_unit_rows():
    train, labels, queries, _ = tiles()
    scores = prototypes.simpleshot(train, labels, queries)
    a, b = centre_l2(train, queries)
    centroids = np.stack([a[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(scores, -np.linalg.norm(b[:, None] - centroids, axis=2), atol=1e-5)
    np.testing.assert_array_equal(scores.argmax(1), NearestCentroid().fit(a, labels).predict(b))


def test_class_without_tiles_is_never_nearest():
    train, labels, queries, _ = tiles()
    scores = prototypes.simpleshot(train, labels * 2, queries, classes=6)
    assert np.isneginf(scores[:, [1, 3, 5]]).all()
    np.testing.assert_allclose(scores[:, ::2], prototypes.simpleshot(train, labels, queries), atol=1e-6)


def test_few_shot_is_simpleshot_on_each_draw(monkeypatch):
    train, labels, queries, truth = tiles(1)
    found = prototypes.few_shot(train, labels, queries, truth, shots=(2,), draws=7, seed=3)
    rng, scores = np.random.default_rng(3), []
    for _ in range(7):
        rows = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:2] for c in range(3)])
        called = prototypes.simpleshot(train[rows], labels[rows], queries).argmax(1)
        scores.append(balanced_accuracy(truth, called))
    assert found == [
        {
            "shots": 2,
            "draws": 7,
            "mean": pytest.approx(np.mean(scores)),
            "std": pytest.approx(np.std(scores)),
            "low": pytest.approx(np.quantile(scores, 0.025)),
            "high": pytest.approx(np.quantile(scores, 0.975)),
        }
    ]
    monkeypatch.setattr(prototypes, "AT_ONCE", 500)
    again = prototypes.few_shot(train, labels, queries, truth, shots=(2,), draws=7, seed=3)
    assert again[0] == pytest.approx(found[0])


def test_more_shots_are_better_and_too_many_are_said():
    train, labels, queries, truth = tiles(2, spread=2.0)
    rows = prototypes.few_shot(train, labels, queries, truth, shots=(1, 16, 31), draws=20)
    assert rows[1]["mean"] > rows[0]["mean"] + 0.05
    assert rows[2]["draws"] == 0 and np.isnan(rows[2]["mean"])


def test_shots_come_from_different_groups_first():
    groups = np.array(["a"] * 20 + ["b"] * 2 + ["c"])
    for seed in range(10):
        pick = prototypes._pick(np.arange(23), 4, groups, np.random.default_rng(seed))
        assert set(groups[pick[:3]]) == {"a", "b", "c"} and len(set(pick)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.zeros((40, 3))}, "training features have 8 columns, queries 3"),
        ({"truth": np.full(40, 7)}, "labels run from 7 to 7"),
        ({"groups": np.array(["a"])}, "1 groups of 90 training tiles"),
    ],
)
def test_bad_input(change, message):
    given = dict(zip(("train", "labels", "queries", "truth"), tiles())) | change
    with pytest.raises(UserError, match=message):
        prototypes.few_shot(**given)
