"""What a bag is asked: a class, a number, or who is at risk first. One row of `TASKS` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Task = Literal["classification", "regression", "survival"]


class Row(NamedTuple):
    """A task."""

    outputs: Callable[[int], int]  # of the number of classes
    loss: Callable[[jax.Array, jax.Array, ArrayLike], jax.Array]  # logits (n, O), targets, weight -> (n,); see below
    joint: bool  # the loss of a bag depends on the others of its step


def binary_loss(logits: jax.Array, targets: jax.Array, weight: ArrayLike) -> jax.Array:
    """(n,) cross-entropy of one logit (n, 1), that of class 1, times `weight` where class 1 is true: torch's
    BCEWithLogitsLoss with pos_weight, not yet averaged."""
    z, y = logits[:, 0], targets.astype(logits.dtype)
    return -(jnp.asarray(weight) * y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z))


def class_loss(logits: jax.Array, targets: jax.Array, weight: ArrayLike) -> jax.Array:
    """(n,) cross-entropy of logits (n, C) and integers (n,); one logit is `binary_loss`."""
    if logits.shape[-1] == 1:
        return binary_loss(logits, targets, weight)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets.astype(jnp.int32)[:, None], axis=-1)[:, 0]


def squared_loss(logits: jax.Array, targets: jax.Array, weight: ArrayLike) -> jax.Array:
    """(n,) squared errors of (n, 1) and numbers (n,)."""
    return (logits[:, 0] - targets) ** 2


def cox_loss(logits: jax.Array, targets: jax.Array, weight: ArrayLike) -> jax.Array:
    """(n,) terms whose mean is Cox's negative log partial likelihood an event, ties after Breslow.

    Args:
        logits: (n, 1) log risks.
        targets: (n, 2) time and event (1: it happened then, 0: seen without until then).

    The risk set of an event are the bags given here whose time is not smaller; without an event all terms are 0.
    """
    risk, (time, event) = logits[:, 0], targets.T
    at_risk = time[None, :] >= time[:, None]  # (n, n): [i, j] j is there when i has its event
    together = jax.nn.logsumexp(jnp.where(at_risk, risk[None, :], -jnp.inf), axis=1)
    return event * (together - risk) * len(risk) / jnp.maximum(event.sum(), 1)


TASKS: dict[str, Row] = {
    "classification": Row(lambda classes: 1 if classes == 2 else classes, class_loss, False),
    "regression": Row(lambda classes: 1, squared_loss, False),
    "survival": Row(lambda classes: 1, cox_loss, True),
}


def outputs(task: Task, classes: int) -> int:
    """Logits of a task: one for two classes, else one a class; one number for the others."""
    return TASKS[task].outputs(classes)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """(n, C) float64 of a classification's logits (n, O); one logit is that of the second of two classes."""
    z = np.asarray(logits, np.float64)
    if z.shape[-1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=-1)
    shares = np.exp(z - z.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
