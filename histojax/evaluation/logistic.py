"""Logistic regression as the paper's linear probe: scikit-learn's objective at C = d * classes / 100, to its minimum.

    sum_i CE_i + 1 / (2 C) |W|^2

over softmax probabilities (two classes: the sigmoid of one weight row), intercept unpenalised, features as they are,
no class weights (Roth, Koch et al. 2023, sec. 4: lambda = 100 / (M C), which scikit-learn calls 1 / C).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_features, checked_labels
from histojax.evaluation.newton import Problem, minimise

TOLERANCE = 1e-8
BLOCK = 16_384


@dataclass(frozen=True)
class Logistic:
    """A fitted probe of C classes.

    Args:
        weights: (d, C) float64; (d, 1) of two classes: those of class 1 against 0. A class without training rows has
            weights 0.
        intercept: (C,) float64, or (1,); a class without training rows has -inf, and so the probability 0.
        c: scikit-learn's C.
        objective: at the minimum, see above.
        gradient_norm: largest absolute entry of the objective's gradient over n, what scikit-learn's tol bounds.
        iterations: Newton steps.
        converged: whether gradient_norm is within the tolerance.
    """

    weights: np.ndarray
    intercept: np.ndarray
    c: float
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """(n, C) float64 of features (n, d); raises UserError for other columns and numbers that are not finite."""
        x = checked_features("query", x)
        if x.shape[1] != len(self.weights):
            raise UserError(f"features have {x.shape[1]} columns, the probe was fitted on {len(self.weights)}")
        parts = [x[i : i + BLOCK].astype(np.float64) @ self.weights for i in range(0, len(x), BLOCK)]
        logits = np.concatenate(parts) + self.intercept
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return softmax(logits, axis=1)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n,) int64, the most probable class."""
        return self.probabilities(x).argmax(axis=1)


def fit_logistic(
    x: np.ndarray,
    labels: np.ndarray,
    classes: int = 0,
    c: float | None = None,
    iterations: int = 1000,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """The probe of features x (n, d) and integer labels (n,) from 0 to `classes` - 1 (0: read off the labels).

    `c` is scikit-learn's C, d * classes / 100 if None. Newton steps (see `newton`) until the largest entry of the
    gradient over n is at most `tolerance`, or `iterations` are spent; same numbers every time. Classes without rows
    take no part. Raises UserError for fewer than two classes with rows, for bad features and labels.
    """
    x = checked_features("training", np.asarray(x, np.float32))
    labels, classes = checked_labels(labels, len(x), classes)
    present, own = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise UserError(f"all {len(x)} training tiles are of class {present[0]}: a classifier needs two classes")
    c = x.shape[1] * classes / 100 if c is None else float(c)
    if not c > 0:
        raise UserError(f"C={c} must be above 0")
    mean, scale = _moments(x)
    binary = len(present) == 2
    found = minimise(Problem(x, own, len(present), 1 / c, mean, scale, binary), iterations, tolerance)
    weights = found.coefficients[:-1] / scale[:, None]
    intercept = found.coefficients[-1] - mean @ weights
    weights, intercept = _of_all(weights, intercept, present, classes)
    return Logistic(
        weights, intercept, c, found.objective, found.gradient_norm, found.iterations, found.converged
    )  # fmt: skip


def _of_all(
    weights: np.ndarray, intercept: np.ndarray, present: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (d, C), (C,) of all classes; of two, those of the second alone."""
    if classes == 2:
        return weights[:, 1:], intercept[1:]
    all_weights, all_intercepts = np.zeros((len(weights), classes)), np.full(classes, -np.inf)
    all_weights[:, present], all_intercepts[present] = weights, intercept
    return all_weights, all_intercepts


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) float64 of the columns; 1 for a constant column, whose weights stay 0."""
    total = sum(x[i : i + BLOCK].sum(axis=0, dtype=np.float64) for i in range(0, len(x), BLOCK))
    mean = total / len(x)
    square = sum(np.square(x[i : i + BLOCK] - mean.astype(np.float32)).sum(axis=0) for i in range(0, len(x), BLOCK))
    deviation = np.sqrt(np.asarray(square, np.float64) / len(x))
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
