from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from histojax.common.errors import UserError
from histojax.evaluation import knn, metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "patch_eval"
SETS = ("nine_class", "two_class")


@pytest.fixture(params=SETS)
def golden(request):
    return np.load(GOLDEN / f"eval_{request.param}.npz")


def clusters(seed, n, queries, d, classes=4, spread=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    labels = rng.integers(classes, size=n + queries)
    x = (centres[labels] + spread * rng.normal(size=(n + queries, d))).astype(np.float32)
    return x[:n], labels[:n], x[n:], labels[n:]


def brute(train, queries, k):
    gap = np.linalg.norm(train[None].astype(np.float64) - queries[:, None].astype(np.float64), axis=-1)
    order = np.argsort(gap, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(gap, order, axis=1), order


def test_golden_neighbours_votes_and_scores(golden):
    distances, indices = knn.nearest(golden["x_train"], golden["x_test"], 20)
    np.testing.assert_allclose(distances, golden["knn_dist"], atol=1e-12)
    np.testing.assert_array_equal(indices, golden["knn_idx"])
    shares = knn.knn_probabilities(golden["x_train"], golden["y_train"], golden["x_test"])
    np.testing.assert_allclose(shares, golden["knn_proba"], atol=1e-14)
    predicted = knn.knn_predict(golden["x_train"], golden["y_train"], golden["x_test"])
    np.testing.assert_array_equal(predicted, golden["knn_pred"])
    check_scores(golden, "knn", predicted)


def test_golden_centred_and_normalised(golden):
    train, test = knn.centre_l2(golden["x_train"], golden["x_test"])
    predicted = knn.knn_predict(train, golden["y_train"], test)
    np.testing.assert_array_equal(predicted, golden["knn_centered_l2_pred"])
    check_scores(golden, "knn_centered_l2", predicted)


def check_scores(golden, prefix, predicted):
    found = metrics.scores(golden["y_test"], predicted)
    for name in found:
        key = f"{prefix}_{name.replace('accuracy', 'acc')}"
        assert found[name] == pytest.approx(float(golden[key]), rel=1e-14)
    matrix = metrics.confusion_matrix(golden["y_test"], predicted)
    np.testing.assert_array_equal(matrix, golden[f"{prefix}_confusion"])


def test_equal_to_sklearn():
    train, labels, queries, _ = clusters(0, 600, 150, 48, spread=2.0)
    for k in (1, 5, 20):
        expected = KNeighborsClassifier(n_neighbors=k).fit(train, labels).predict_proba(queries)
        np.testing.assert_allclose(knn.knn_probabilities(train, labels, queries, k), expected, atol=1e-12)


def test_blocks_do_not_change_the_answer(monkeypatch):
    train, _, queries, _ = clusters(1, 333, 71, 16)
    whole = knn.nearest(train, queries, 20)
    monkeypatch.setattr(knn, "TRAIN_BLOCK", 150)
    monkeypatch.setattr(knn, "TILE", 50)
    monkeypatch.setattr(knn, "QUERIES", 16)
    monkeypatch.setattr(knn, "RANKED", 16 * 30)
    blocks = knn.nearest(train, queries, 20)
    np.testing.assert_array_equal(blocks[1], whole[1])
    np.testing.assert_array_equal(blocks[0], whole[0])
    np.testing.assert_array_equal(whole[1], brute(train, queries, 20)[1])


def test_near_ties_far_from_the_mean_are_exact():
    """Two clusters 1e-3 wide, 2000 apart: float32 products alone cannot rank within them."""
    rng = np.random.default_rng(2)
    side = np.where(np.arange(400) % 2, 1000, -1000)[:, None]
    train = (side + 1e-3 * rng.normal(size=(400, 32))).astype(np.float32)
    queries = (side[:40] + 1e-3 * rng.normal(size=(40, 32))).astype(np.float32)
    _, rows = knn._candidates(train, queries, 26)
    assert any(set(near) - set(row) for near, row in zip(brute(train, queries, 10)[1], rows))
    distances, indices = knn.nearest(train, queries, 10)
    expected = brute(train, queries, 10)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-12)


def test_equal_distances_go_to_the_smallest_row():
    """More equal rows than float32 candidates: the fallback ranks all rows."""
    train = np.zeros((200, 3), np.float32)
    train[:100] = 1
    _, indices = knn.nearest(train, np.zeros((2, 3), np.float32), 20)
    np.testing.assert_array_equal(indices, np.tile(np.arange(100, 120), (2, 1)))


def test_vote_ties_go_to_the_smallest_class():
    train = np.array([[1.0], [-1.0], [2.0], [-2.0]], np.float32)
    labels = np.array([3, 1, 1, 3])
    assert knn.knn_predict(train, labels, np.zeros((1, 1), np.float32), k=4) == [1]


def test_cosine_vote_by_hand():
    train, labels, queries, _ = clusters(3, 120, 30, 8, spread=1.5)
    a, b = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64) for x in (queries, train))
    similarity = a @ b.T
    expected = np.zeros((30, 4))
    for row, sims in enumerate(similarity):
        near = np.argsort(-sims)[:20]
        weights = np.exp(sims[near] / 0.07) / np.exp(sims[near] / 0.07).sum()
        for label, weight in zip(labels[near], weights):
            expected[row, label] += weight
    found = knn.knn_probabilities(train, labels, queries, 20, vote="cosine")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, knn.knn_probabilities(train, labels, queries, 20), atol=1e-2)


def test_cosine_ignores_length():
    train, labels, queries, _ = clusters(4, 100, 20, 8)
    scaled = train * np.random.default_rng(0).uniform(0.1, 10, (100, 1)).astype(np.float32)
    a = knn.knn_probabilities(train, labels, queries, 10, vote="cosine")
    np.testing.assert_allclose(knn.knn_probabilities(scaled, labels, queries, 10, vote="cosine"), a, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 11}, "k=11 neighbours of 10 training tiles"),
        ({"k": 0}, "k must be from 1 to 10"),
        ({"queries": np.zeros((2, 5), np.float32)}, "training features have 4 columns, queries 5"),
        ({"queries": np.full((3, 4), np.nan)}, "query features: 3 of 3 rows are not finite"),
        ({"train": np.zeros(10, np.float32)}, r"training features have shape \(10,\)"),
        ({"labels": np.zeros(9, np.int64)}, "one for each of 10 tiles"),
        ({"labels": np.full(10, -1)}, "labels run from -1 to -1"),
        ({"vote": "majority"}, "vote='majority' is not one of"),
    ],
)
def test_bad_input(change, message):
    given = {
        "train": np.eye(10, 4, dtype=np.float32),
        "labels": np.zeros(10, np.int64),
        "queries": np.zeros((3, 4), np.float32),
        "k": 3,
    } | change
    with pytest.raises(UserError, match=message):
        knn.knn_predict(**given)


@pytest.mark.parametrize("spread", [0.01, 2.0])
def test_screening_in_bfloat16_changes_nothing(monkeypatch, spread):
    """Narrow clusters are beyond its bound, and go on to float32."""
    train, _, queries, _ = clusters(5, 500, 40, 24, spread=spread)
    expected = brute(train, queries, 10)
    monkeypatch.setattr(knn, "SMALL", 0)
    monkeypatch.setattr(knn, "_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(knn, "SPARE", {"bfloat16": 70, "float32": 16})
    distances, indices = knn.nearest(train, queries, 10)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-12)
    sure = knn._screened(train, queries, 10, jnp.bfloat16)[2]
    assert sure.all() if spread == 2.0 else not sure.any()


def test_bound_on_bfloat16_holds():
    train, _, queries, _ = clusters(6, 300, 30, 16)
    squares, rows = knn._candidates(train, queries, 300, jnp.bfloat16)
    gap = train[rows].astype(np.float64) - queries[:, None]
    error = np.abs(squares - (gap**2).sum(-1)).max(axis=1)
    bound = knn._rounding(train, queries, jnp.bfloat16)
    assert (error <= bound).all() and (error > bound / 50).all()
