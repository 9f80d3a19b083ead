"""The slide protocol in small, cheap enough to run while training: mean-pooled patients, logistic regression.

Accuracy on tiles is close to its ceiling in many sets; whether patients can be told apart is what slides are read for.
"""

from __future__ import annotations

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.logistic import fit_logistic
from histojax.evaluation.metrics import classification_scores

FOLDS = 5


def slide_scores(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Mean AUROC (several classes: macro one-vs-one) and balanced accuracy over folds of patients that were left out.

    Args:
        features: (n, d) of tiles.
        labels: (n,) int, of the tile's patient.
        groups: (n,) str, patients.

    The features of a patient's tiles are averaged; the patch protocol's logistic regression is fitted on 4 of 5 parts
    (fewer if a class has fewer patients), class by class, always the same ones.
    """
    from sklearn.model_selection import StratifiedKFold

    pooled, truth = pool(features, labels, groups)
    classes = int(truth.max()) + 1
    folds = min(FOLDS, int(np.bincount(truth)[np.unique(truth)].min()))
    rows = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(pooled, truth):
        shares = fit_logistic(pooled[train], truth[train], classes).probabilities(pooled[test])
        rows.append(classification_scores(truth[test], shares.argmax(1), shares, classes))
    return {f"slides_{name}": float(np.mean([row[name] for row in rows])) for name in ("auroc", "balanced_accuracy")}


def pool(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((p, d) mean features, (p,) labels) of the patients, in the order of their names."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), features.shape[1]))
    np.add.at(sums, number, features)
    return (sums / np.bincount(number)[:, None]).astype(np.float32), labels[first].astype(np.int64)


def check_patients(labels: np.ndarray, groups: np.ndarray, where: str) -> None:
    """Raises UserError for tiles without a patient, a patient of two classes, and fewer than 2 patients in a class."""
    if not (groups != "").all():
        raise UserError(
            f"{where}: {int((groups == '').sum())} of {len(groups)} tiles have no patient; name each tile's"
        )
    names, number = np.unique(groups, return_inverse=True)
    low, high = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(low, number, labels)
    np.maximum.at(high, number, labels)
    if (low != high).any():
        raise UserError(
            f"{where}: tiles of patient {names[np.argmax(low != high)]} have different labels; one is needed"
        )
    counts = np.bincount(high)
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.min() < 2:
        raise UserError(f"{where}: two classes of at least two patients each are needed, found {counts.tolist()}")
