"""How much of the feature space is used: rank, spread and prototype statistics that need no labels.

All but `rankme` are plain jax functions and work inside jit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

RANKME_EPSILON = 1e-7  # Garrido et al. 2023, eq. 2


def rankme(features: np.ndarray) -> float:
    """RankMe of features (n, d): exp of the entropy of the singular values, from 1 to min(n, d).

    p_k = s_k / sum(s) + 1e-7 and exp(-sum p_k ln p_k) of the features as they are, not centred (Garrido et al.
    2023, sec. 3). float64 on the host. Comparable only between feature matrices of one shape. NaN if the features
    are all zero or not finite.
    """
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        return float("nan")
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # ten times cheaper than the singular values of x
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))  # right to 1e-8 of the largest, below the epsilon
    if values.sum() == 0:
        return float("nan")
    p = values / values.sum() + RANKME_EPSILON
    return float(np.exp(-np.sum(p * np.log(p))))


def feature_spread(features: jax.Array | np.ndarray) -> jax.Array:
    """Standard deviation of each L2-normalised feature over (n, d), averaged, times sqrt(d); a float32 scalar.

    1 for random directions, 0 when all features are one vector (Chen & He 2021, sec. 4.1).
    """
    unit = _unit(features)
    return jnp.std(unit, axis=0).mean() * unit.shape[1] ** 0.5


def mean_cosine(features: jax.Array | np.ndarray) -> jax.Array:
    """Mean cosine similarity over pairs of different rows of (n, d), n > 1; a float32 scalar, 1 when collapsed."""
    unit = _unit(features)
    n = unit.shape[0]
    total = jnp.sum(unit.sum(axis=0) ** 2)
    return (total - jnp.sum(unit**2)) / (n * (n - 1))


def prototype_use(probabilities: jax.Array) -> dict[str, jax.Array]:
    """Of teacher targets (n, K) that sum to 1 a row, three float32 scalars:

    `won`, prototypes that are some row's largest, as a share of the most that could be, min(n, K);
    `perplexity`, exp of the entropy of the mean target: prototypes in use, from 1 to K;
    `entropy`, mean entropy of the rows in nats: 0 for one-hot targets, ln K for uniform ones.
    """
    n, k = probabilities.shape
    won = jnp.zeros((k,), jnp.float32).at[jnp.argmax(probabilities, axis=1)].set(1.0)
    return {
        "won": won.sum() / min(n, k),
        "perplexity": jnp.exp(entropy(probabilities.mean(axis=0))),
        "entropy": entropy(probabilities).mean(),
    }


def entropy(probabilities: jax.Array) -> jax.Array:
    """(...,) entropy in nats over the last axis of (..., K); 0 ln 0 counts as 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probabilities, probabilities), axis=-1)


def _unit(features: jax.Array | np.ndarray) -> jax.Array:
    x = jnp.asarray(features, jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
