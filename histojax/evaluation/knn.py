"""Exact nearest neighbours of feature vectors, and the two votes in use on them.

`uniform` is scikit-learn's KNeighborsClassifier (Euclidean, one vote each; the 20-NN of Roth, Koch et al. 2023,
sec. 4); `cosine` is DINOv2's k-NN (facebookresearch/dinov2 eval/knn.py): cosine similarity, votes weighted by
softmax(similarity / 0.07).
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_features, checked_labels

SPARE = {"bfloat16": 108, "float32": 16}  # candidates beyond k: room for rounding to confuse near ties
SMALL = 1 << 33  # products of rows; more are screened in bfloat16
GROUP = 32  # columns that are sorted by their minimum first
TRAIN_BLOCK = 1 << 17  # training rows on the device at a time
QUERIES, TILE = 256, 1 << 14  # rows of a product: its 16 MB stay in the cache
RANKED = 1 << 21  # numbers that are ranked in float64 at a time
TEMPERATURE = 0.07


def nearest(train: np.ndarray, queries: np.ndarray, k: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k) float64, ascending, and row numbers (n, k) int64 of each query's k nearest training rows.

    `train` (m, d) and `queries` (n, d) are float32. Equal distances are ordered by row number, so the answer does
    not depend on blocks, device or threads. Candidates are found on the device, of many rows in bfloat16 where
    that is fast, and ranked again in float64. A bound on the rounding says for each query whether a row beyond its
    candidates could be nearer: it then is screened again in float32, and at last ranked against all rows.
    Raises UserError for k > m and for features that are not finite.
    """
    train = checked_features("training", np.asarray(train, np.float32))
    queries = checked_features("query", np.asarray(queries, np.float32))
    if train.shape[1] != queries.shape[1]:
        raise UserError(f"training features have {train.shape[1]} columns, queries {queries.shape[1]}")
    if not 1 <= k <= len(train):
        raise UserError(f"k={k} neighbours of {len(train)} training tiles: k must be from 1 to {len(train)}")
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    left = np.arange(len(queries))
    for dtype in _screens(len(train) * queries.size):
        if len(left):
            distances[left], indices[left], sure = _screened(train, queries[left], k, dtype)
            left = left[~sure]
    every_row = np.arange(len(train))[None]
    for i in left:
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
        return vote_shares(labels[indices], np.full(indices.shape, 1 / k), classes)
    if vote != "cosine":
        raise UserError(f"vote={vote!r} is not one of uniform, cosine")
    distances, indices = nearest(l2_normalise(train), l2_normalise(queries), k)
    scaled = -(distances**2) / 2 / TEMPERATURE  # cosine = 1 - distance^2 / 2; the 1 cancels in the softmax
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return vote_shares(labels[indices], weights / weights.sum(axis=1, keepdims=True), classes)


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


def _screens(products: int) -> tuple[DTypeLike, ...]:
    """The precisions that candidates are looked for in, one after the other."""
    return (jnp.bfloat16, jnp.float32) if products > SMALL and _multiplies_bfloat16() else (jnp.float32,)


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if jax.default_backend() != "cpu":
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _screened(
    train: np.ndarray, queries: np.ndarray, k: int, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances and rows (n, k) of the best candidates, ranked in float64; and (n,) whether no other row can be
    nearer than they, by a bound on what rounding to `dtype` did to the squared distances."""
    count = min(k + SPARE[jnp.dtype(dtype).name], len(train))
    squares, rows = _candidates(train, queries, count, dtype)
    error = _rounding(train, queries, dtype)
    worth = (squares <= (squares[:, k - 1] + 2 * error)[:, None]).sum(axis=1)
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    order = np.argsort(worth, kind="stable")
    for part in np.array_split(order, max(len(order) // 256, 1)):  # of like numbers of candidates
        distances[part], indices[part] = _rank(train, queries[part], rows[part, : worth[part].max(initial=k)], k)
    if count == len(train):
        return distances, indices, np.ones(len(queries), bool)
    return distances, indices, squares[:, -1] - error > distances[:, -1] ** 2


def _candidates(
    train: np.ndarray, queries: np.ndarray, k: int, dtype: DTypeLike = jnp.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (n, k), ascending, and rows (n, k), of products in `dtype` block by block on the device."""
    centre, chunk = _centre(train), min(len(queries), QUERIES)
    tiles = -(-min(len(train), TRAIN_BLOCK) // TILE)
    block = tiles * -(-min(len(train), TRAIN_BLOCK) // (tiles * GROUP)) * GROUP
    squares = np.full((len(queries), k), np.inf, np.float32)
    rows = np.zeros((len(queries), k), np.int64)
    for first in range(0, len(train), block):
        padded = _padded(train[first : first + block], centre, block, dtype)
        parts = jax.device_put(list(zip(*(np.split(array, tiles) for array in padded))))
        for start in range(0, len(queries), chunk):
            place = slice(start, start + chunk)
            query, own = _padded(queries[place], centre, chunk, dtype)
            found = [np.asarray(x) for x in _block_top(parts, query, min(k, block))]
            near = [x[: len(queries[place])] for x in found]
            values = np.concatenate([squares[place], near[0] + own[: len(near[0]), None]], axis=1)
            index = np.concatenate([rows[place], near[1] + first], axis=1)
            best = np.argsort(values, axis=1, kind="stable")[:, :k]
            squares[place] = np.take_along_axis(values, best, axis=1)
            rows[place] = np.take_along_axis(index, best, axis=1)
    return squares, rows


def _padded(x: np.ndarray, centre: np.ndarray, length: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """Centred rows in `dtype`, filled up to `length` rows, and their squared norms; infinite for the filling, which
    so is never near."""
    rows, norms = np.zeros((length, x.shape[1]), dtype), np.full(length, np.inf, np.float32)
    for start in range(0, len(x), 4096):
        place = slice(start, min(start + 4096, len(x)))
        centred = x[place] - centre
        rows[place], norms[place] = centred, np.einsum("nd,nd->n", centred, centred, dtype=np.float64)
    return rows, norms


def _block_top(tiles: list[tuple[jax.Array, jax.Array]], queries: ArrayLike, k: int) -> tuple[jax.Array, jax.Array]:
    """Squared distances less the query's own square, ascending, and rows of the block, (n, k) each, of tiles of rows
    (r, d) and their squared norms (r,).

    The k smallest numbers lie in the k groups with the smallest minima: so only a few are sorted. Three programs: in
    one with what follows them, XLA:CPU does not take its fast product."""
    dots = [_dots(rows, queries) for rows, _ in tiles]
    minima = [_minima(some, norms) for some, (_, norms) in zip(dots, tiles)]
    return _smallest(dots, [norms for _, norms in tiles], minima, k)


@jax.jit
def _dots(rows: jax.Array, queries: ArrayLike) -> jax.Array:
    return jnp.einsum("nd,rd->nr", queries, rows, precision="highest", preferred_element_type=jnp.float32)


@jax.jit
def _minima(dots: jax.Array, norms: jax.Array) -> jax.Array:
    return (norms - 2 * dots).reshape(len(dots), -1, GROUP).min(axis=2)


@functools.partial(jax.jit, static_argnames="k")
def _smallest(
    dots: list[jax.Array], norms: list[jax.Array], minima: list[jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    n, each = minima[0].shape
    _, which = jax.lax.top_k(-jnp.concatenate(minima, axis=1), min(k, len(dots) * each))
    tile, group = which // each, which % each
    near = jnp.stack(dots).reshape(len(dots), n, each, GROUP)[tile, jnp.arange(n)[:, None], group]  # (n, k, GROUP)
    squares = jnp.stack(norms).reshape(len(dots), each, GROUP)[tile, group] - 2 * near
    negative, place = jax.lax.top_k(-squares.reshape(n, -1), k)
    return -negative, jnp.take_along_axis(which, place // GROUP, axis=1) * GROUP + place % GROUP


def _rank(train: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the candidate rows (n, c), by float64 distance, then row number."""
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    step = max(RANKED // (rows.shape[1] * train.shape[1]), 1)
    for start in range(0, len(queries), step):
        place = slice(start, start + step)
        near = np.sort(rows[place], axis=1)
        gap = train[near].astype(np.float64) - queries[place, None].astype(np.float64)  # (q, c, d)
        exact = np.sqrt(np.einsum("qcd,qcd->qc", gap, gap))
        best = np.argsort(exact, axis=1, kind="stable")[:, :k]
        distances[place] = np.take_along_axis(exact, best, axis=1)
        indices[place] = np.take_along_axis(near, best, axis=1)
    return distances, indices


def _rounding(train: np.ndarray, queries: np.ndarray, dtype: DTypeLike = jnp.float32) -> np.ndarray:
    """(n,) bound on the error of a squared distance by products in `dtype`, summed in float32.

    A float32 dot product of d terms errs by d units at most. For q rounded to q' and x to x', q.x - q'.x' is
    (q - q').x + q'.(x - x'), and so at most |q - q'| |x| + |q'| |x - x'| (Cauchy-Schwarz)."""
    centre = _centre(train)
    length, lost = _lengths(train, centre, dtype)
    own_length, own_lost = _lengths(queries, centre, dtype)
    reach = own_length + length.max()
    summed = (train.shape[1] + 8) * 2.0**-24 * reach**2
    return summed + 2 * (own_lost * length.max() + (own_length + own_lost) * lost.max())


def _centre(train: np.ndarray) -> np.ndarray:
    """What is taken off all rows, as far origins cost digits."""
    return np.asarray(np.mean(train, axis=0, dtype=np.float64), np.float32)


def _lengths(x: np.ndarray, centre: np.ndarray, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64: lengths of the centred rows, and of what rounding them to `dtype` takes away."""
    lengths, lost = np.empty(len(x)), np.zeros(len(x))
    for start in range(0, len(x), 4096):
        place = slice(start, start + 4096)
        rows = x[place] - centre
        lengths[place] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        if jnp.dtype(dtype) != rows.dtype:
            gap = rows - rows.astype(dtype).astype(rows.dtype)
            lost[place] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return lengths * (1 + 1e-4), lost * (1 + 1e-4)  # float32 sums


def vote_shares(labels: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """(n, C) float64: the weights (n, k) of the neighbours of each class, whose labels (n, k) are integers from 0."""
    shares = np.zeros((len(labels), n_classes))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), weights)
    return shares
