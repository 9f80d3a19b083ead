"""A linear probe in closed form: ridge regression on one-hot labels, cheap enough to run while training."""

from __future__ import annotations

import dataclasses

import numpy as np

from histojax.evaluation.checks import checked_features, checked_labels

STRENGTHS = 10.0 ** np.arange(-6, 3)  # of the penalty, relative to the mean variance of a feature times n


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A fitted probe: scores are (x - mean) / scale @ weights + intercept."""

    mean: np.ndarray  # (d,) float64
    scale: np.ndarray  # (d,) float64
    weights: np.ndarray  # (d, C) float64
    intercept: np.ndarray  # (C,) float64
    strength: float  # the relative penalty that was chosen
    left_out_error: float  # its mean squared leave-one-out error

    def scores(self, x: np.ndarray) -> np.ndarray:
        """(n, C) float64: regressed one-hot values, about the share of each class; the decision is the argmax."""
        return (np.asarray(x, np.float64) - self.mean) / self.scale @ self.weights + self.intercept

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n,) int64 classes of features (n, d)."""
        return self.scores(x).argmax(axis=1)


def fit_ridge(
    x: np.ndarray,
    labels: np.ndarray,
    classes: int = 0,
    standardise: bool = True,
    strengths: np.ndarray = STRENGTHS,
) -> Ridge:
    """The ridge probe of features x (n, d) and integer labels (n,), in float64 on the host.

    Minimises |Y - 1 b' - Z W|^2 + lambda |W|^2 for one-hot Y and centred (`standardise`: unit-variance) features
    Z; the intercept b is not penalised. lambda = strength * n * (mean variance of a feature), so strengths mean
    the same for any feature size and scale; the one with the least squared leave-one-out error is taken. One
    eigendecomposition serves all strengths (Hastie et al. 2009, sec. 3.4.1 and 7.10). O(n d^2 + d^3).
    """
    z, mean, scale = _standard(checked_features("training", np.asarray(x, np.float64)), standardise)
    labels, classes = checked_labels(labels, len(z), classes)
    targets = np.eye(classes)[labels]
    intercept = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(z.T @ z)
    values = np.maximum(values, 0.0)
    penalties = strengths * max(values.mean(), 1e-300)
    rotated = z @ vectors  # (n, d)
    moments = rotated.T @ (targets - intercept)  # (d, C)
    errors = [_left_out(rotated, values + penalty, moments, targets - intercept) for penalty in penalties]
    best = int(np.argmin(errors))
    weights = vectors @ (moments / (values + penalties[best])[:, None])
    return Ridge(mean, scale, weights, intercept, float(strengths[best]), errors[best])


def ridge_probe(train: np.ndarray, labels: np.ndarray, queries: np.ndarray, standardise: bool = True) -> np.ndarray:
    """Classes (n,) int64 of the queries by a probe fitted on `train` (m, d) and `labels` (m,), see `fit_ridge`."""
    return fit_ridge(train, labels, standardise=standardise).predict(queries)


def _left_out(rotated: np.ndarray, shrunk: np.ndarray, moments: np.ndarray, targets: np.ndarray) -> float:
    """Mean squared error of predicting each row by the fit without it: residual / (1 - leverage)."""
    residual = targets - rotated @ (moments / shrunk[:, None])
    leverage = (rotated**2 / shrunk).sum(axis=1) + 1 / len(rotated)  # the intercept's share is 1 / n
    return float(np.mean((residual / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2))


def _standard(x: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    constant = deviation <= 1e-7 * np.abs(x).max(axis=0)  # rounding of a float32 constant is no signal
    scale = np.where(constant, 1.0, deviation) if standardise else np.ones(x.shape[1])
    return np.where(constant, 0.0, (x - mean) / scale), mean, scale
