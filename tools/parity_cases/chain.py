"""The whole chain of augmentation: levels, spreads and detail of many crops against recorded means and spreads.

The size of the recorded crops is not stored, and nothing about the picture they were cut from but the picture
itself. Means of the channels, their spreads and the share of grey crops hardly depend on either: they are tested
as statistics. The spread of levels within a crop does depend on them, so its bound is wide. The step between
neighbouring rows is a matter of size, and tells it; by how much the second global view is smoother than the first
shows the blur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import jax
import numpy as np

from histojax.ssl.augment import CropConfig, multi_crop
from parity_cases.check import Check, bounded, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.pixel_operations import BOX
from parity_cases.statistics import denominator, mean_gap, spread_gap

IMAGES, CROPS, FEW = 25, 800, 100  # at a time, of each view in all, and to see how fine they are
CHANNELS, WITHIN = ("mean_r", "mean_g", "mean_b"), ("std_r", "std_g", "std_b")
STEP, GREY = "mean_abs_row_diff", "is_gray"
COLUMNS = (*CHANNELS, *WITHIN, STEP, GREY)
VIEWS = ("g0", "g1", "local")
Statistics = dict[str, dict[str, np.ndarray]]  # view: column: values, or their mean


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with a picture, `stats/pipeline_columns`, and `stats/pipeline_<view>_mean` and `_std`."""
    if {"image", "stats/pipeline_columns"} <= set(file.names):
        name = f"{file.name} chain"
        yield name, partial(_chain, name, file.arrays)


def _chain(name: str, a: Arrays) -> Iterator[Check]:
    columns = [str(c) for c in a["stats/pipeline_columns"]]
    views = [v for v in VIEWS if f"stats/pipeline_{v}_mean" in a]
    means = {v: dict(zip(columns, a[f"stats/pipeline_{v}_mean"])) for v in views}
    spreads = {v: dict(zip(columns, a[f"stats/pipeline_{v}_std"])) for v in views}
    recorded = denominator([m[GREY] for m in means.values()])
    ours = _at_recorded_detail(a, means.get("g0", {}))
    for view in views:
        yield from _view(name, view, ours[view], means[view], spreads[view], recorded)
    if {"g0", "g1"} <= set(views):
        yield _smoothing(name, ours, means)


def _view(name: str, view: str, ours: dict, means: dict, spreads: dict, recorded: int) -> Iterator[Check]:
    def one(test: Callable, column: str, *numbers: float) -> Check:
        words = f"standard errors of {recorded} and {CROPS} crops"
        return bounded(name, column, *test(ours[column], *numbers, recorded), words)

    levels = [one(mean_gap, c, means[c], spreads[c]) for c in (*CHANNELS, GREY)]
    yield from worst(name, f"{view}: channels and share of grey", levels)
    yield from worst(name, f"{view}: spreads of the channels", [one(spread_gap, c, spreads[c]) for c in CHANNELS])
    within = []
    for c in WITHIN:
        gap, ratio = abs(ours[c].mean() - means[c]) / spreads[c], abs(np.log(ours[c].std() / spreads[c]))
        within.append(bounded(name, f"mean {c}", gap, 0.5, "recorded spreads", gap * spreads[c]))
        within.append(bounded(name, f"spread of {c}", ratio, 0.3, "in the logarithm"))
    yield from worst(name, f"{view}: levels within a crop", within)


def _smoothing(name: str, ours: Statistics, means: Statistics) -> Check:
    """Steps between rows of the second view, as a part of those of the first: its blur and nothing else."""
    part, theirs = (ours["g1"][STEP].mean() / ours["g0"][STEP].mean(), means["g1"][STEP] / means["g0"][STEP])
    ratio = float(abs(np.log(part / theirs)))
    return bounded(name, "smoothing of the second view", ratio, 0.3, "in the logarithm", abs(part - theirs))


def _at_recorded_detail(a: Arrays, means: dict[str, float]) -> Statistics:
    """Our statistics of crops about as fine as the recorded ones.

    First guess: the largest and the smallest of the crops in the file. The finer a crop, the smaller the steps
    between its rows, about in proportion: if those of the first view are far off, its size was another one.
    """
    stored = [int(a.peek(k)[-1]) for k in a if k.endswith(BOX)] or [224, 98]
    wide, local = max(stored), min(stored)
    if STEP in means:
        ratio = _statistics(a["image"], wide, local, FEW)["g0"][STEP].mean() / means[STEP]
        wide = wide if abs(np.log(ratio)) < 0.2 else int(np.clip(wide * ratio, 28, 256))
    return _statistics(a["image"], wide, local, CROPS)


@cache
def _program(config: CropConfig) -> Callable:
    return jax.jit(lambda key, images: multi_crop(key, images, 0, config))


def _statistics(picture: np.ndarray, wide: int, local: int, crops: int) -> Statistics:
    """{view: {column: values}} of our crops."""
    config = CropConfig(global_px=wide, local_px=local, vflip=0.0, local_crops=1)  # the reference has no vflip
    images = np.repeat(picture[None], IMAGES, 0)
    found: dict[str, list[np.ndarray]] = {v: [] for v in VIEWS}
    for i in range(crops // IMAGES):
        both, small = (np.asarray(x) for x in _program(config)(jax.random.key(i), images))
        for view, pixels in zip(VIEWS, (both[:, 0], both[:, 1], small[:, 0])):
            found[view].append(_columns(pixels, config))
    return {view: dict(zip(COLUMNS, np.concatenate(rows).T)) for view, rows in found.items()}


def _columns(crops: np.ndarray, config: CropConfig) -> np.ndarray:
    """(n, 8): means and spreads of the channels in [0, 1], mean step between rows, and whether it is grey."""
    x = np.asarray(crops, np.float64) * config.std + config.mean
    rows = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    gray = (np.ptp(x, axis=-1) < 1e-4).all((1, 2))
    return np.column_stack([x.mean((1, 2)), x.std((1, 2)), rows, gray])
