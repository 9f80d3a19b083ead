"""Evaluation while training: is the teacher getting better at telling held-out tiles apart?

With labels: balanced accuracy of a 20-nearest-neighbour vote and of a closed-form ridge probe, fitted on one part
of the tiles and read on the other. With or without: RankMe and the spread of the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.histogram import colour_histogram
from histojax.evaluation.knn import knn_predict
from histojax.evaluation.metrics import balanced_accuracy
from histojax.evaluation.probe import ridge_probe
from histojax.evaluation.rank import rankme
from histojax.ssl.health import feature_spread

Batch = Mapping[str, np.ndarray]
CHECK = "they could be at the start; look after the storage and run the same command again"


@dataclasses.dataclass(frozen=True)
class EvalTiles:
    """The tiles of the evaluation.

    `batches()` yields dict(image (b, P, P, 3) uint8, index (b,), valid (b,) bool) in the order of `labels`, all of
    one size; rows with index -1 only fill a batch, other invalid rows are tiles that became unreadable since.
    """

    batches: Callable[[], Iterable[Batch]]
    labels: np.ndarray  # (n,) int32; -1: unlabelled
    fit: int  # the first `fit` tiles are fitted on, the others tested; 0: no labels, no accuracies
    how: str = ""  # the split in words
    bad: tuple[tuple[str, str], ...] = ()  # (path, reason) of the unreadable tiles, which are not among them


def evaluate(tiles: EvalTiles, features: Callable[[np.ndarray], np.ndarray], k: int = 20) -> dict[str, float]:
    """{metric: value} of `features`, a function from uint8 (b, P, P, 3) to (b, D) float32.

    Always rankme and eval_spread; knn_balanced_accuracy and ridge_balanced_accuracy when the tiles are labelled.
    Empty for features that are not finite: an accuracy of those would be a number without meaning. Raises UserError
    when no tile of a part can be read any more.
    """
    found, valid = _collect(tiles, features)
    if not np.isfinite(found).all():
        return {}
    values = {"rankme": float(rankme(found[valid])), "eval_spread": float(feature_spread(found[valid]))}
    return {**accuracies(tiles, found, valid, k), **values} if tiles.fit else values


def histogram_baseline(tiles: EvalTiles, k: int = 20) -> float:
    """kNN balanced accuracy of joint colour histograms on the same split: what colour alone can do."""
    return accuracies(tiles, *_collect(tiles, colour_histogram), k, ridge=False)["knn_balanced_accuracy"]


def accuracies(
    tiles: EvalTiles, features: np.ndarray, valid: np.ndarray, k: int = 20, ridge: bool = True
) -> dict[str, float]:
    """kNN and ridge balanced accuracy of (n, D) features on the tiles that are not fitted on."""
    fit = np.arange(len(valid)) < tiles.fit
    train, test = fit & valid, ~fit & valid
    if not (train.any() and test.any()):
        raise UserError(f"of {len(valid)} evaluation tiles {valid.sum()} can still be read, none of one part: {CHECK}")
    data = features[train], tiles.labels[train], features[test]
    truth = tiles.labels[test]
    found = {"knn_balanced_accuracy": balanced_accuracy(truth, knn_predict(*data, k=min(k, int(train.sum()))))}
    if ridge:
        found["ridge_balanced_accuracy"] = balanced_accuracy(truth, ridge_probe(*data))
    return found


def _collect(tiles: EvalTiles, features: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) features and (n,) bool: False where the tile is unreadable."""
    rows, valid = [], []
    for batch in tiles.batches():
        real = batch["index"] >= 0
        rows.append(np.asarray(features(batch["image"]), np.float32)[real])
        valid.append(batch["valid"][real])
    if not any(part.any() for part in valid):
        raise UserError(f"none of {len(tiles.labels)} evaluation tiles can be read any more: {CHECK}")
    return np.concatenate(rows), np.concatenate(valid)
