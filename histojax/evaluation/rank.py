"""How much of the feature space is used, without labels."""

from __future__ import annotations

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
