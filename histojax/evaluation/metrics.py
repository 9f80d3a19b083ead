"""Scores equal to scikit-learn's, of integer labels (n,) where classes that never occur are left out, of numbers, of
survival times."""

from __future__ import annotations

import numpy as np

from histojax.evaluation.weighted import Scorer, classification_scorer, regression_scorer, survival_scorer


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


def classification_scores(
    truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None = None, classes: int = 0
) -> dict[str, float]:
    """accuracy, balanced_accuracy, weighted_f1, macro_f1, kappa and quadratic_kappa; of probabilities also auroc,
    ece, brier and log_loss. NaN where a score is undefined.

    `truth`, `predicted` (n,) integers from 0, `probabilities` (n, C); C is `classes`, or read off the others. All are
    scikit-learn's with labels=range(C): balanced_accuracy over classes of the truth, macro_f1 over those of truth or
    prediction; auroc by the second class of two, else the mean over pairs of classes that occur ("ovo", "macro");
    brier of two classes halved (0 to 1, else 0 to 2). ece: 15 equal bins of the largest probability (Guo et al.
    2017). Of many resamples of the same rows at once: `weighted.classification_scorer`. ValueError for bad arrays.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if probabilities is not None:
        probabilities = _checked_probabilities(probabilities, len(truth), classes)
        classes = probabilities.shape[1]
    confusion_matrix(truth, predicted, classes or None)
    return _plain(
        classification_scorer(truth.astype(np.int64), predicted.astype(np.int64), probabilities, classes), truth
    )


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """r2, mae, pearson and spearman of (n,) numbers; NaN where undefined (a constant). ValueError for bad arrays."""
    truth, predicted = _checked_numbers(truth=truth, predicted=predicted)
    return _plain(regression_scorer(truth, predicted), truth)


def survival_scores(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> dict[str, float]:
    """concordance: Harrell's C, the share of comparable pairs in which the one who died first had the higher risk.

    `time`, `event` (1: died then, 0: seen alive until then), `risk` (n,). A pair is comparable if the earlier time is
    an event; of equal times, if just one is (the other outlived it). Equal risks count half (scikit-survival's
    concordance_index_censored). NaN without comparable pairs. ValueError for bad arrays.
    """
    time, event, risk = _checked_numbers(time=time, event=event, risk=risk)
    if not np.isin(event, (0, 1)).all():
        raise ValueError("events must be 0 or 1")
    return _plain(survival_scorer(time, event.astype(bool), risk), time)


def _plain(scorer: Scorer, rows: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in scorer(np.ones((1, len(rows)))).items()}


def _checked_probabilities(p: np.ndarray, count: int, classes: int) -> np.ndarray:
    p = np.asarray(p, np.float64)
    if p.ndim != 2 or len(p) != count or p.shape[1] != (classes or p.shape[1]):
        raise ValueError(f"probabilities have shape {p.shape}, expected ({count}, {classes or 'classes'})")
    if not (np.isfinite(p) & (p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError("probabilities must be from 0 to 1")
    return p


def _checked_numbers(**given: np.ndarray) -> list[np.ndarray]:
    arrays = {name: np.asarray(x, np.float64) for name, x in given.items()}
    if len({x.shape for x in arrays.values()}) != 1 or any(x.ndim != 1 for x in arrays.values()):
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{shapes} must be vectors of one length")
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise ValueError(f"{name} must be finite")
    return list(arrays.values())
