"""What every classifier on features asks of its inputs."""

from __future__ import annotations

import numpy as np

from histojax.common.errors import UserError


def checked_features(name: str, x: np.ndarray) -> np.ndarray:
    """x as (n, d), n and d above 0, its dtype kept; UserError for another shape or numbers that are not finite."""
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(f"{name} features have shape {x.shape}, expected (tiles, features)")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise UserError(f"{name} features: {bad.sum()} of {len(x)} rows are not finite, first row {bad.argmax()}")
    return x


def checked_labels(labels: np.ndarray, count: int, classes: int = 0) -> tuple[np.ndarray, int]:
    """(labels (n,) int64, number of classes): `classes`, or one more than the largest label if that is 0.

    UserError unless there are `count` integers from 0 to classes - 1.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels {labels.shape} {labels.dtype} must be integers, one for each of {count} tiles")
    classes = classes or int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {max(classes - 1, 0)}")
    return labels.astype(np.int64), classes
