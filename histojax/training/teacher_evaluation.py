"""The teacher judged by the evaluation tiles: features by all devices and processes, numbers by the first process.

Each process reads the tiles that its own devices get. What it could read, all know.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from histojax.common.signals import Interrupted, Stop
from histojax.evaluation import online
from histojax.evaluation.evaluators import Evaluator
from histojax.parallel.agreement import Together
from histojax.parallel.host_values import place_rows, rows_here

Values = dict[str, float]
Features = Callable[[Any, Any], jax.Array]  # (backbone, images) -> features, see ssl.step.make_features


def evaluate_teacher(
    tiles: online.EvalTiles,
    rows: Sequence[Evaluator],
    features: Features,
    backbone: Any,
    split: NamedSharding | None,
    together: Together,
    stop: Stop,
) -> Values:
    """{metric: value}, the same in all processes, empty for features that are not finite.

    `split` says how images lie on several devices. Raises Interrupted where a signal came meanwhile.
    """

    def extract(images: np.ndarray) -> np.ndarray:
        if together.count == 1 and stop.signal:
            raise Interrupted(stop.signal)
        return _extract(features, backbone, images, split)

    if together.count > 1 and split is not None:
        tiles = _shared(tiles, split, together, stop)
        if not together.main:
            rows = [dataclasses.replace(row, function=_nothing) for row in rows]
    return together.from_first(online.evaluate(tiles, extract, rows))


def baseline(tiles: online.EvalTiles, rows: Sequence[Evaluator], together: Together) -> Values:
    """What colour alone can do, see online.baseline; the first process reads all tiles for it."""
    return together.from_first(online.baseline(tiles, rows) if together.main else {})


def _nothing(_: Any) -> Values:
    return {}


def _extract(features: Features, backbone: Any, images: np.ndarray, split: NamedSharding | None) -> np.ndarray:
    """(n, D) features of n images, of which this process has its rows; the batch is filled up where it must be."""
    if split is None:
        return np.asarray(features(backbone, images))
    here, devices = len(split.addressable_devices), split.num_devices
    count = len(images) * devices // here
    filled = np.pad(images, ((0, -len(images) % here), (0, 0), (0, 0), (0, 0)))
    return np.asarray(features(backbone, place_rows(filled, split, len(filled) * devices // here)))[:count]


def _shared(tiles: online.EvalTiles, split: NamedSharding, together: Together, stop: Stop) -> online.EvalTiles:
    """The tiles with batches of which `image` has the rows of this process, everything else all rows."""

    def batches() -> Iterator[online.Batch]:
        shares: list[list[int]] = []
        for batch in tiles.batches(split.num_devices, functools.partial(rows_here, split)):
            size = len(batch["index"]) * split.num_devices // len(split.addressable_devices)
            shares = shares or together.gather(rows_here(split, size))
            said = {name: batch[name].tolist() for name in ("index", "valid")}
            heard = together.gather({**said, "signal": stop.signal})
            if asked := max(one["signal"] for one in heard):
                raise Interrupted(asked)
            yield {"image": batch["image"], **{name: _joined(name, shares, heard, batch[name].dtype) for name in said}}

    slides = None if tiles.slides is None else _shared(tiles.slides, split, together, stop)
    return dataclasses.replace(tiles, batches=batches, slides=slides)


def _joined(name: str, shares: list[list[int]], heard: list[dict[str, Any]], dtype: np.dtype) -> np.ndarray:
    """The rows of all processes in their places."""
    whole = np.empty(sum(map(len, shares)), dtype)
    for rows, one in zip(shares, heard):
        whole[rows] = one[name]
    return whole
