"""The slide protocol in small, cheap enough to run while training: mean-pooled patients, logistic regression.

Accuracy on tiles is close to its ceiling in many sets; whether patients can be told apart is what slides are read for.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from histojax.common.errors import UserError

FOLDS = 5


def slide_scores(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Mean AUROC (several classes: macro one-vs-one) and balanced accuracy over folds of patients that were left out.

    Args:
        features: (n, d) of tiles.
        labels: (n,) int, of the tile's patient.
        groups: (n,) str, patients.

    The features of a patient's tiles are averaged; logistic regression with C = d * classes / 100 is fitted on 4 of 5
    parts (fewer if a class has fewer patients), class by class, always the same ones.
    """
    pooled, truth = pool(features, labels, groups)
    folds = min(FOLDS, int(np.bincount(truth)[np.unique(truth)].min()))
    rows = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(pooled, truth):
        classes = np.unique(truth)
        model = LogisticRegression(C=pooled.shape[1] * len(classes) / 100, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a curve over steps; `evaluate slide` is for numbers
            shares = model.fit(pooled[train], truth[train]).predict_proba(pooled[test])
        area = roc_auc_score(
            truth[test], shares[:, 1] if len(classes) == 2 else shares, multi_class="ovo", labels=classes
        )
        rows.append((area, balanced_accuracy_score(truth[test], classes[shares.argmax(1)])))
    area, accuracy = np.mean(rows, axis=0)
    return {"slides_auroc": float(area), "slides_balanced_accuracy": float(accuracy)}


def pool(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((p, d) mean features, (p,) labels) of the patients, in the order of their names."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), features.shape[1]))
    np.add.at(sums, number, features)
    return sums / np.bincount(number)[:, None], labels[first]


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
