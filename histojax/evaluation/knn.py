"""Exact nearest neighbours of feature vectors, and the two votes in use on them.

`uniform` is scikit-learn's KNeighborsClassifier (Euclidean, one vote each; the 20-NN of Roth, Koch et al. 2023,
sec. 4); `cosine` is DINOv2's k-NN (facebookresearch/dinov2 eval/knn.py): cosine similarity, votes weighted by
softmax(similarity / 0.07).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_features, checked_labels

SPARE = 16  # neighbours beyond k that are ranked again in float64: room for float32 to confuse near ties
TRAIN_BLOCK = 65_536  # training rows on the device at a time
DISTANCES = 1 << 24  # entries of a distance block: 64 MB
TEMPERATURE = 0.07


def nearest(train: np.ndarray, queries: np.ndarray, k: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k) float64, ascending, and row numbers (n, k) int64 of each query's k nearest training rows.

    `train` (m, d) and `queries` (n, d) are float32. Equal distances are ordered by row number, so the answer does
    not depend on blocks, device or threads. The device ranks in float32; the best k + 16 are ranked again in
    float64, and a query whose answer float32 cannot vouch for is ranked against all rows in float64.
    Raises UserError for k > m and for features that are not finite.
    """
    train = checked_features("training", np.asarray(train, np.float32))
    queries = checked_features("query", np.asarray(queries, np.float32))
    if train.shape[1] != queries.shape[1]:
        raise UserError(f"training features have {train.shape[1]} columns, queries {queries.shape[1]}")
    if not 1 <= k <= len(train):
        raise UserError(f"k={k} neighbours of {len(train)} training tiles: k must be from 1 to {len(train)}")
    squares, rows = _candidates(train, queries, min(k + SPARE, len(train)))
    distances, indices = _rank(train, queries, rows, k)
    if rows.shape[1] < len(train):
        unsure = squares[:, -1] - _rounding(train, queries) <= distances[:, -1] ** 2
        every_row = np.arange(len(train))[None]
        for i in np.flatnonzero(unsure):
            distances[i : i + 1], indices[i : i + 1] = _rank(train, queries[i : i + 1], every_row, k)
    return distances, indices


def knn_probabilities(
    train: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    k: int = 20,
    vote: str = "uniform",
    classes: int = 0,
) -> np.ndarray:
    """Vote shares (n, C) float64 of the k nearest neighbours of each query.

    `labels` (m,) are integers from 0; C is `classes`, or one more than the largest label. `vote` is "uniform"
    (Euclidean) or "cosine" (weighted by similarity, see above).
    """
    labels, classes = checked_labels(labels, len(train), classes)
    if vote == "uniform":
        _, indices = nearest(train, queries, k)
        return _vote(labels[indices], np.full(indices.shape, 1 / k), classes)
    if vote != "cosine":
        raise UserError(f"vote={vote!r} is not one of uniform, cosine")
    distances, indices = nearest(l2_normalise(train), l2_normalise(queries), k)
    scaled = -(distances**2) / 2 / TEMPERATURE  # cosine = 1 - distance^2 / 2; the 1 cancels in the softmax
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return _vote(labels[indices], weights / weights.sum(axis=1, keepdims=True), classes)


def knn_predict(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int = 20, vote: str = "uniform"
) -> np.ndarray:
    """The class (n,) int64 with most votes, the smallest of equal ones; arguments as in `knn_probabilities`."""
    return knn_probabilities(train, labels, queries, k, vote).argmax(axis=1)


def l2_normalise(x: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; a zero row stays zero."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def centre_l2(train: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with the training mean taken off and rows of unit length (the protocol of UNI, Chen et al. 2024)."""
    mean = np.mean(train, axis=0, dtype=np.float64).astype(np.float32)
    return l2_normalise(train - mean), l2_normalise(queries - mean)


def _candidates(train: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared float32 distances (n, k), ascending, and rows (n, k), block by block on the device."""
    centre = np.mean(train, axis=0, dtype=np.float64).astype(np.float32)  # far origins cost digits
    block = min(TRAIN_BLOCK, len(train))
    chunk = min(len(queries), max(DISTANCES // block, 1))
    squares = np.full((len(queries), k), np.inf, np.float32)
    rows = np.zeros((len(queries), k), np.int64)
    for first in range(0, len(train), block):
        part, norms = _padded(train[first : first + block] - centre, block)
        part, norms = jax.device_put(part), jax.device_put(norms)
        for start in range(0, len(queries), chunk):
            place = slice(start, start + chunk)
            query, _ = _padded(queries[place] - centre, chunk)
            found = [np.asarray(x)[: len(queries[place])] for x in _block_top(part, norms, query, min(k, block))]
            values = np.concatenate([squares[place], found[0]], axis=1)
            index = np.concatenate([rows[place], found[1] + first], axis=1)
            best = np.argsort(values, axis=1, kind="stable")[:, :k]
            squares[place] = np.take_along_axis(values, best, axis=1)
            rows[place] = np.take_along_axis(index, best, axis=1)
    return squares, rows


def _padded(x: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """x filled up to `length` rows, and their squared norms; infinite for the filling, which so is never near."""
    norms = np.full(length, np.inf, np.float32)
    norms[: len(x)] = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    return np.pad(x, [(0, length - len(x)), (0, 0)]), norms


@functools.partial(jax.jit, static_argnames="k")
def _block_top(train: jax.Array, norms: jax.Array, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    dots = jnp.einsum("nd,md->nm", queries, train, precision="highest")
    own = jnp.sum(queries * queries, axis=1, keepdims=True)
    negative, rows = jax.lax.top_k(2 * dots - norms - own, k)
    return -negative, rows


def _rank(train: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the candidate rows (n, c), by float64 distance, then row number."""
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    step = max(DISTANCES // 8 // (rows.shape[1] * train.shape[1]), 1)
    for start in range(0, len(queries), step):
        place = slice(start, start + step)
        near = np.sort(rows[place], axis=1)
        gap = train[near].astype(np.float64) - queries[place, None].astype(np.float64)  # (q, c, d)
        exact = np.sqrt(np.einsum("qcd,qcd->qc", gap, gap))
        best = np.argsort(exact, axis=1, kind="stable")[:, :k]
        distances[place] = np.take_along_axis(exact, best, axis=1)
        indices[place] = np.take_along_axis(near, best, axis=1)
    return distances, indices


def _rounding(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(n,) bound on the float32 error of a squared distance: a dot product of d terms errs by d units at most."""
    centre = np.mean(train, axis=0, dtype=np.float64)
    reach = np.linalg.norm(queries - centre, axis=1) + np.linalg.norm(train - centre, axis=1).max()
    return (train.shape[1] + 8) * 2.0**-24 * reach**2


def _vote(labels: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    shares = np.zeros((len(labels), n_classes))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), weights)
    return shares
