"""What a trained head says of bags: logits, attention and scores of single tiles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histojax.evaluation.mil.bags import Bag, Reader, checked, one_ahead, padded
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import forward
from histojax.evaluation.mil.tasks import probabilities

TILES = 1024  # bags of one tile at a time


def predict(head: Head, bags: Sequence[Bag]) -> np.ndarray:
    """(n, O) float32 logits, a row a bag; raises UserError for bags that do not fit the head."""
    reader = Reader(bags, head.settings.inputs, budget=0)
    run = forward(head.settings)
    found = [run(head.params, *bag) for bag in one_ahead(partial(reader.load, i) for i in range(len(bags)))]
    return np.concatenate([np.asarray(one) for one in found]) if found else np.zeros((0, head.settings.outputs))


def attention(head: Head, x: np.ndarray) -> np.ndarray:
    """(n,) float32: how much each tile of a bag (n, d) weighs, 1 together; the mean over the model's heads.

    A transformer's is the attention of the class token in the last layer, without what it gives to itself.
    """
    x = checked(Bag("bag", lambda: x), x, head.settings.inputs)
    weights = np.asarray(forward(head.settings, "attention")(head.params, *padded(x)))[0].mean(axis=0)[: len(x)]
    weights = np.maximum(weights, 0)  # TransMIL's pseudo-inverse lets some be below
    return weights / max(weights.sum(), np.finfo(np.float32).tiny)


def tile_scores(head: Head, x: np.ndarray) -> np.ndarray:
    """(n, C) float64: what the head says of each tile of (n, d) as if it were the whole bag: probabilities of the
    classes; without classes the number itself, (n, 1)."""
    x = checked(Bag("bag", lambda: x), x, head.settings.inputs)
    run, there = forward(head.settings), np.ones((TILES, 1), bool)
    found = []
    for start in range(0, len(x), TILES):
        part = np.zeros((TILES, 1, x.shape[1]), np.float32)
        part[: len(x) - start, 0] = x[start : start + TILES]
        found.append(np.asarray(run(head.params, part, there))[: len(x) - start])
    logits = np.concatenate(found)
    return probabilities(logits) if head.task == "classification" else logits.astype(np.float64)
