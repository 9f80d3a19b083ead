"""Retrieval: are the tiles that look most alike of the same class? As UNI asks it (Chen et al. 2024)."""

from __future__ import annotations

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_labels
from histojax.evaluation.knn import centre_l2, nearest

DEPTHS = (1, 3, 5)


def retrieve(train: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Shares of the queries with a tile of their class among the 1, 3, 5 nearest training tiles (top1, top3, top5),
    and of those whose class is the commonest of the 5, the smallest of equally common ones (majority5).

    Nearest by cosine similarity of features centred on the training mean. `train` (m, d), `labels` (m,) integers from
    0, `queries` (n, d), `truth` (n,). With fewer than 5 training tiles, all of them. UserError for bad arrays.
    """
    labels, classes = checked_labels(labels, len(train))
    truth = np.asarray(truth)
    if truth.shape != (len(queries),):
        raise UserError(f"truth has shape {truth.shape}, expected one label for each of {len(queries)} queries")
    _, rows = nearest(*centre_l2(train, queries), k=min(DEPTHS[-1], len(train)))
    found = labels[rows]  # (n, 5)
    hits = found == truth[:, None]
    common = np.stack([(found == c).sum(axis=1) for c in range(classes)], axis=1).argmax(axis=1)
    scores = {f"top{depth}": float(hits[:, :depth].any(axis=1).mean()) for depth in DEPTHS}
    return scores | {f"majority{DEPTHS[-1]}": float((common == truth).mean())}
