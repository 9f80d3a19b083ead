"""The baseline: a linear model of the mean tile, fitted exactly instead of trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from histojax.evaluation.logistic import fit_logistic
from histojax.evaluation.mil.tasks import Task, cox_loss

PENALTIES = tuple(10.0**power for power in range(-4, 3))  # of standardised features, relative to the loss's mean
Linear = tuple[np.ndarray, np.ndarray]  # kernel (d, O), bias (O,)


def fit_linear(
    means: np.ndarray, targets: np.ndarray, train: np.ndarray, validation: np.ndarray, task: Task, classes: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameter tree of the model "mean", facts) from mean tiles (n, d), see `fit_head` for the rest.

    Classification is the logistic regression of the patch protocol, C = d * classes / 100, on the training part alone;
    a class that it lacks has the probability 0. The others are ridge regression and Cox's regression with a ridge
    penalty, on standardised features, whichever of `PENALTIES` has the lowest loss on the validation part.
    """
    means = np.asarray(means, np.float64)
    if task == "classification":
        fitted = fit_logistic(means[train], targets[train], classes)
        kernel, bias = fitted.weights, fitted.intercept
        facts = {"C": float(fitted.c), "converged": bool(fitted.converged)}
    else:
        fit, loss = (_ridge, _squared) if task == "regression" else (_cox, _partial_likelihood)
        (kernel, bias), facts = _best(fit, loss, means, targets, train, validation)
    tree = {"head": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}}
    return tree, {"fitted": "to the minimum, on mean tiles", **facts}


Fit = Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, float]]
Loss = Callable[[np.ndarray, np.ndarray], float]


def _best(
    fit: Fit, loss: Loss, x: np.ndarray, targets: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[Linear, dict[str, Any]]:
    """((kernel, bias), facts) with the penalty whose loss on the validation part is lowest."""
    centre, scale = x[train].mean(axis=0), x[train].std(axis=0)
    scale = np.where(scale <= 1e-7 * np.abs(x[train]).max(axis=0), np.inf, scale)  # a constant feature has no say
    z = (x - centre) / scale
    fitted = [fit(z[train], targets[train], penalty) for penalty in PENALTIES]
    losses = [loss(z[validation] @ weights + bias, targets[validation]) for weights, bias in fitted]
    chosen = int(np.argmin(losses))
    weights, bias = fitted[chosen]
    facts = {"penalty": PENALTIES[chosen], "validation_loss": losses[chosen]}
    return ((weights / scale)[:, None], np.array([bias - centre @ (weights / scale)])), facts


def _ridge(z: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=penalty * len(z)).fit(z, y)
    return fitted.coef_, float(fitted.intercept_)


def _squared(predicted: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((predicted - y) ** 2))


def _cox(z: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights of the log risk; it needs no intercept."""
    time, event = y.T
    at_risk = time[None] >= time[:, None]

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        risk = z @ weights
        shares = np.where(at_risk, np.exp(risk - risk.max()), 0)  # (n, n)
        together = shares.sum(axis=1, keepdims=True)
        terms = np.log(together[:, 0]) + risk.max() - risk
        slope = (event[:, None] * shares / together).sum(axis=0) - event
        count = max(event.sum(), 1)
        return event @ terms / count + penalty / 2 * weights @ weights, z.T @ slope / count + penalty * weights

    return minimize(objective, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B").x, 0.0


def _partial_likelihood(risk: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(cox_loss(jnp.asarray(risk[:, None]), jnp.asarray(y), 1.0)))
