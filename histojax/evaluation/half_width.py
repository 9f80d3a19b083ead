"""How far a score on a few tiles can be believed: half of its bootstrap interval, for scores that steer a training."""

from __future__ import annotations

import numpy as np

from histojax.evaluation.intervals import bootstrap, witnesses
from histojax.evaluation.results import Predictions
from histojax.evaluation.weighted import classification_scorer

DRAWS = 400


def half_width(labels: np.ndarray, called: np.ndarray, groups: np.ndarray | None = None) -> float | None:
    """Half of the 95 % interval of the balanced accuracy of (n,) calls; None where nothing can be drawn.

    Patients or slides are drawn where `groups` (n,) names them ("": a tile stands for itself), else tiles. The same
    numbers each time: the draws have a seed of their own.
    """
    tiles = np.arange(len(labels)).astype(str)
    names = witnesses(Predictions("", "", None, tiles, labels, called, groups=groups))
    classes = int(max(labels.max(), called.max())) + 1
    score = classification_scorer(labels, called, None, classes)
    low, high = bootstrap(score, len(labels), names, DRAWS)["balanced_accuracy"]
    return float(high - low) / 2 if np.isfinite(high - low) else None
