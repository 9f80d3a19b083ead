"""Golden probes of features: nearest neighbours, their votes and the logistic regression, and their scores.

Arrays of scikit-learn's KNeighborsClassifier begin with `knn_` (raw features) and `knn_centered_l2_` (centred, of
length 1), those of LogisticRegression at its minimum with `lr_tight_`, and at its default tolerance with `lr_`: of
these the scores alone are held against ours, loosely, as they are not converged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from histojax.evaluation import knn, logistic, metrics
from parity_cases.check import Check, compare
from parity_cases.golden import ArrayFile, Folder

DISTANCE_RTOL = 1e-6  # the recorded ones are sums of float32
SHARE_ATOL, SCORE_ATOL = 1e-12, 1e-12
PROBABILITY_ATOL, WEIGHT_ATOL, INTERCEPT_ATOL = 1e-4, 1e-3, 1e-3
UNCONVERGED = 0.02  # of a score: a few tiles of hundreds
SCORES = {
    "acc": "accuracy",
    "balanced_acc": "balanced_accuracy",
    "weighted_f1": "weighted_f1",
    "macro_f1": "macro_f1",
}
_APART = {"uni_torch_": "of another objective: mean loss, norm not squared"}
_UNCONVERGED = ("lr_coef", "lr_intercept", "lr_n_iter", "lr_pred", "lr_proba", "lr_confusion", "lr_tight_n_iter")


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with features to fit on and to judge by."""
    if {"x_train", "y_train", "x_test", "y_test"} <= set(file.names):
        file.arrays.aside(_UNCONVERGED, "not converged")
        for start, reason in _APART.items():
            file.arrays.aside((n for n in file.names if n.startswith(start)), reason)
        yield f"{file.name} knn", partial(_neighbours, f"{file.name} knn", file.arrays)
        yield f"{file.name} logistic", partial(_logistic, f"{file.name} logistic", file.arrays)


def _neighbours(name: str, a: Mapping[str, np.ndarray]) -> Iterator[Check]:
    train, labels, queries = a["x_train"], a["y_train"], a["x_test"]
    if "knn_idx" in a:
        k = a["knn_idx"].shape[1]
        distances, indices = knn.nearest(train, queries, k)
        yield compare(name, "indices", indices, a["knn_idx"])
        yield compare(name, "distances", distances, a["knn_dist"], rtol=DISTANCE_RTOL)
        shares = knn.knn_probabilities(train, labels, queries, k)
        yield compare(name, "vote shares", shares, a["knn_proba"], atol=SHARE_ATOL)
        yield from _called(name, "knn", knn.knn_predict(train, labels, queries, k), a)
        if "knn_centered_l2_pred" in a:
            train, queries = knn.centre_l2(train, queries)
            yield from _called(name, "knn_centered_l2", knn.knn_predict(train, labels, queries, k), a)


def _called(name: str, prefix: str, predicted: np.ndarray, a: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """Predictions, confusion and scores."""
    yield compare(name, f"{prefix} predictions", predicted, a[f"{prefix}_pred"])
    yield compare(
        name, f"{prefix} confusion", metrics.confusion_matrix(a["y_test"], predicted), a[f"{prefix}_confusion"]
    )
    yield from _scores(name, prefix, predicted, a, SCORE_ATOL)


def _scores(name: str, prefix: str, predicted: np.ndarray, a: Mapping[str, np.ndarray], atol: float) -> Iterator[Check]:
    found = metrics.classification_scores(a["y_test"], predicted)
    for key, ours in SCORES.items():
        yield compare(name, f"{prefix} {key}", found[ours], a[f"{prefix}_{key}"], atol=atol)


def _logistic(name: str, a: Mapping[str, np.ndarray]) -> Iterator[Check]:
    if "lr_tight_proba" not in a:
        return
    yield compare(name, "features", a["x_train"].shape[1], a["n_features"])
    yield compare(name, "classes", len(np.unique(a["y_train"])), a["n_classes"])
    fit = logistic.fit_logistic(a["x_train"], a["y_train"])
    yield compare(name, "C", fit.c, a["sklearn_C"], rtol=1e-12)
    yield compare(name, "1 / C", 1 / fit.c, a["lam"], rtol=1e-12)
    yield compare(name, "weights", fit.weights.T, a["lr_tight_coef"], atol=WEIGHT_ATOL)
    yield compare(name, "intercept", fit.intercept, a["lr_tight_intercept"], atol=INTERCEPT_ATOL)
    p = fit.probabilities(a["x_test"])
    yield compare(name, "probabilities", p, a["lr_tight_proba"], atol=PROBABILITY_ATOL)
    predicted = fit.predict(a["x_test"])
    yield compare(name, "predictions", predicted, a["lr_tight_pred"])
    yield from _scores(name, "lr", predicted, a, UNCONVERGED)
