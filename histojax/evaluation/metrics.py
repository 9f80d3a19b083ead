"""Classification scores equal to scikit-learn's, of integer labels (n,); classes that never occur are left out."""

from __future__ import annotations

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int | None = None) -> np.ndarray:
    """(C, C) int64: how often class `row` was called class `column`.

    Labels are integers from 0 to C - 1, else ValueError; C is `n_classes`, or one more than the largest label.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and predicted {predicted.shape} must be vectors of one length")
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
            raise ValueError(f"{name} labels must be integers, 0 or more; found {labels.dtype} {labels[:5]} ...")
    largest = int(max(truth.max(initial=-1), predicted.max(initial=-1)))
    n = largest + 1 if n_classes is None else n_classes
    if largest >= n:
        raise ValueError(f"label {largest} is not one of {n} classes (0 to {n - 1})")
    flat = truth.astype(np.int64) * n + predicted.astype(np.int64)
    return np.bincount(flat, minlength=n * n).reshape(n, n)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right calls; NaN without any."""
    matrix = confusion_matrix(truth, predicted)
    return float(np.trace(matrix) / matrix.sum()) if matrix.size else float("nan")


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur in the truth; NaN without any."""
    matrix = confusion_matrix(truth, predicted)
    support = matrix.sum(axis=1)
    present = support > 0
    return float(np.mean(np.diag(matrix)[present] / support[present])) if present.any() else float("nan")


def f1_scores(matrix: np.ndarray) -> np.ndarray:
    """(C,) float64 of a confusion matrix: 2 TP / (2 TP + FP + FN), 0 for a class that never occurs."""
    hits = 2.0 * np.diag(matrix)
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.divide(hits, both, out=np.zeros(len(hits)), where=both > 0)


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in truth or prediction; NaN without any."""
    matrix = confusion_matrix(truth, predicted)
    present = matrix.sum(axis=0) + matrix.sum(axis=1) > 0
    return float(np.mean(f1_scores(matrix)[present])) if present.any() else float("nan")


def weighted_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1, each class weighted by how often it occurs in the truth; NaN without any."""
    matrix = confusion_matrix(truth, predicted)
    support = matrix.sum(axis=1)
    return float(np.average(f1_scores(matrix), weights=support)) if support.any() else float("nan")


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """accuracy, balanced_accuracy, macro_f1 and weighted_f1 by name."""
    return {f.__name__: f(truth, predicted) for f in (accuracy, balanced_accuracy, macro_f1, weighted_f1)}
