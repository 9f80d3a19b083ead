"""SimpleShot: a class is the mean of its tiles, and a tile belongs to the nearest one (Wang et al. 2019, "CL2N").

Features are centred on the mean of the training tiles and scaled to length 1 first, as UNI does (Chen et al. 2024).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_features, checked_labels

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 500
AT_ONCE = 1 << 22  # distances: 16 MB


def simpleshot(train: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int = 0) -> np.ndarray:
    """Scores (n, C) float64 of the queries: minus the distance to each class's mean; -inf of a class without tiles.

    `train` (m, d), `labels` (m,) integers from 0, `queries` (n, d); C is `classes` or read off the labels.
    """
    train, queries = _checked(train, queries)
    labels, classes = checked_labels(labels, len(train), classes)
    scores = np.asarray(_scores(queries, *_prototypes(train, labels, classes)), np.float64)
    return np.where(np.bincount(labels, minlength=classes) > 0, scores, -np.inf)


def few_shot(
    train: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    shots: tuple[int, ...] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """Balanced accuracy of SimpleShot fitted on `shots` random tiles a class: a row for each number of shots, with
    shots, draws, mean, std (ddof 0), low and high (2.5 and 97.5 % of the draws).

    Every draw centres on the mean of its own tiles and sees no others. With `groups` (m,) the tiles of a class come
    from as many patients or slides as it has. Where a class has fewer tiles than shots, draws is 0 and the rest NaN.
    """
    train, queries = _checked(train, queries)
    labels, classes = checked_labels(labels, len(train))
    truth, _ = checked_labels(truth, len(queries), classes)
    if groups is not None and np.shape(groups) != (len(train),):
        raise UserError(f"{np.size(groups)} groups of {len(train)} training tiles: one for each is needed")
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    rng = np.random.default_rng(seed)
    rows = []
    for count in shots:
        found = np.full(0, np.nan)
        if count <= min(map(len, members)):
            picks = np.array([[_pick(rows, count, groups, rng) for rows in members] for _ in range(draws)])
            found = _accuracies(train, queries, labels[[rows[0] for rows in members]], truth, picks)
        rows.append(_summary(count, found))
    return rows


def _summary(shots: int, accuracies: np.ndarray) -> dict[str, float]:
    if not len(accuracies):
        return {"shots": shots, "draws": 0} | dict.fromkeys(("mean", "std", "low", "high"), float("nan"))
    low, high = np.quantile(accuracies, (0.025, 0.975))
    mean, std = accuracies.mean(), accuracies.std()
    return {"shots": shots, "draws": len(accuracies)} | {
        name: float(value) for name, value in (("mean", mean), ("std", std), ("low", low), ("high", high))
    }


def _pick(rows: np.ndarray, count: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """`count` of the rows at random; the second tile of a group only once every group has given its first."""
    shuffled = rng.permutation(rows)
    if groups is None:
        return shuffled[:count]
    _, which = np.unique(np.asarray(groups)[shuffled], return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], which[order])
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - starts
    return shuffled[np.argsort(turn, kind="stable")[:count]]


def _accuracies(
    train: np.ndarray, queries: np.ndarray, names: np.ndarray, truth: np.ndarray, picks: np.ndarray
) -> np.ndarray:
    """(draws,) balanced accuracies; `picks` (draws, C', shots) are rows of `train`, of the classes `names` (C',)."""
    present, own = np.unique(truth, return_inverse=True)
    share = np.eye(len(present))[own] / np.bincount(own) / len(present)  # (n, classes of the truth)
    classes, shots = picks.shape[1:]
    own_labels = np.repeat(np.arange(classes), shots)
    found = []
    step = min(max(AT_ONCE // (len(queries) * (classes + 1)), 1), len(picks))
    for start in range(0, len(picks), step):
        fitted = [
            _prototypes(train[pick.ravel()], own_labels, classes) for pick in picks[start : start + step]
        ]  # (d,), (C', d) each
        fitted += fitted[-1:] * (step - len(fitted))  # so that one shape is compiled
        scores = np.asarray(_scores_of_draws(queries, *map(np.stack, zip(*fitted))))
        right = names[scores.argmax(axis=2)] == truth  # (step, n)
        found.extend((right @ share).sum(axis=1)[: len(picks) - start])
    return np.array(found)


def _prototypes(train: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) of the tiles, and the means (C, d) of the classes' centred tiles of length 1, float32."""
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    x = train - mean
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    prototypes = [x[labels == c].mean(axis=0) if (labels == c).any() else np.zeros_like(mean) for c in range(classes)]
    return mean, np.stack(prototypes)


@jax.jit
def _scores(queries: jax.Array, mean: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Minus the distance (n, C) of centred queries of length 1 from the prototypes."""
    x = queries - mean
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    near = jnp.dot(x, prototypes.T, precision="highest")
    own = jnp.sum(x * x, axis=1, keepdims=True)
    return -jnp.sqrt(jnp.maximum(own + jnp.sum(prototypes**2, axis=1) - 2 * near, 0))


_scores_of_draws = jax.jit(jax.vmap(_scores, in_axes=(None, 0, 0)))


def _checked(train: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train = checked_features("training", np.asarray(train, np.float32))
    queries = checked_features("query", np.asarray(queries, np.float32))
    if train.shape[1] != queries.shape[1]:
        raise UserError(f"training features have {train.shape[1]} columns, queries {queries.shape[1]}")
    return train, queries
