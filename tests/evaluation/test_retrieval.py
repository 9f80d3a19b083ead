import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.retrieval import retrieve


def test_by_hand():
    """On the line, centred on its mean, only the side counts: ties of cosine go to the smallest row."""
    angles = np.deg2rad([0, 10, 20, 30, 40, 180, 190, 200, 210, 220])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([0, 1, 1, 2, 2, 0, 0, 3, 3, 3])
    queries = train[[0, 1, 5]] * 3  # their neighbours by angle: 0 1 2 3 4, 1 0 2 3 4, 5 6 7 8 9
    found = retrieve(train, labels, queries, np.array([2, 1, 0]))
    assert found == {
        "top1": pytest.approx(2 / 3),
        "top3": pytest.approx(2 / 3),
        "top5": 1.0,
        "majority5": pytest.approx(1 / 3),  # 0 1 1 2 2 ties for 1; 0 0 3 3 3 is 3
    }


def test_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(60, 5)).astype(np.float32) + 2, rng.normal(size=(30, 5)).astype(np.float32) + 2
    labels, truth = rng.integers(4, size=60), rng.integers(4, size=30)
    a, b = train - train.mean(0), queries - train.mean(0)
    cosine = (b @ a.T) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1, keepdims=True)
    near = labels[np.argsort(-cosine, axis=1)[:, :5]]
    expected = {f"top{k}": np.mean([t in row[:k] for t, row in zip(truth, near)]) for k in (1, 3, 5)}
    expected["majority5"] = np.mean([np.bincount(row).argmax() == t for t, row in zip(truth, near)])
    assert retrieve(train, labels, queries, truth) == pytest.approx(expected)


def test_few_training_tiles_and_bad_truth():
    train = np.eye(3, dtype=np.float32)
    assert retrieve(train, np.array([0, 1, 1]), train, np.array([0, 1, 1]))["top1"] == 1
    with pytest.raises(UserError, match="one label for each of 3 queries"):
        retrieve(train, np.array([0, 1, 1]), train, np.array([0]))
