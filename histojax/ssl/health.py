"""Signs of a healthy training: how far features spread, how sharp targets are, how many prototypes are in use.

Plain functions of arrays that work inside jit; the step reports them of the teacher, evaluations of their tiles.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def feature_spread(features: jax.Array | np.ndarray) -> jax.Array:
    """Standard deviation of each L2-normalised feature over (..., d), averaged, times sqrt(d); a float32 scalar.

    1 for random directions, 0 when all features are one vector (Chen & He 2021, sec. 4.1).
    """
    x = jnp.asarray(features, jnp.float32)
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
    return jnp.std(unit, axis=tuple(range(x.ndim - 1))).mean() * x.shape[-1] ** 0.5


def entropy(probabilities: jax.Array) -> jax.Array:
    """(...,) entropy in nats over the last axis of (..., K): 0 for one-hot rows, ln K for uniform ones."""
    return -jnp.sum(jax.scipy.special.xlogy(probabilities, probabilities), axis=-1)


def prototype_use(probabilities: jax.Array) -> jax.Array:
    """Prototypes that are some token's largest of (..., K), as a share of the most that could be; a float32 scalar."""
    prototypes = probabilities.shape[-1]
    first = jnp.argmax(probabilities, axis=-1).reshape(-1)
    chosen = jnp.zeros((prototypes,), jnp.float32).at[first].set(1.0)
    return chosen.sum() / min(first.size, prototypes)
