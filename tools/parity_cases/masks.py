"""Block masks: replays of the reference's random numbers, and statistics of the masks that the device draws."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl import masks as m
from parity_cases.check import Check, bounded, compare, skipped, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.reference_masks import reference_block_mask, reference_masks
from parity_cases.statistics import chi_square, counts_gap, mean_gap

BATCHES = 64  # at least so many are drawn


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Groups `<name>/` with `targets` (one mask at a time), `collated_masks` or `rows` (whole batches)."""
    for group in sorted({k.split("/")[0] for k in file.names if "/" in k}):
        arrays, name = file.arrays.below(f"{group}/"), f"{file.name} {group}"
        if {"targets", "hist_of_masked_count"} <= set(arrays):
            yield name, partial(_grid, name, group, arrays)
        if "collated_masks" in arrays:
            yield name, partial(_replayed, name, arrays)
        if {"rows", "columns"} <= set(arrays):
            yield name, partial(_batches, name, arrays)


def _grid(name: str, group: str, a: Arrays) -> Iterator[Check]:
    side = int(re.search(r"(\d+)$", group)[1])
    if "max_num_patches" in a:
        yield compare(name, "largest block", m.block_cap((side, side)), a["max_num_patches"])
    if "exact_masks" in a:
        triples = zip(a["exact_seeds"], a["exact_targets"])
        ours = [reference_block_mask(random.Random(int(s)), (side, side), int(t)) for s, t in triples]
        yield compare(name, f"replayed masks ({len(ours)})", np.stack(ours), a["exact_masks"])
    draws, targets = int(a["draws_per_target"]), a["targets"]
    wanted = jnp.asarray(np.repeat(targets, draws), jnp.int32)
    drawn = jax.jit(lambda k: m.block_masks(k, wanted, (side, side)))(jax.random.key(11))
    drawn = np.asarray(drawn).reshape(len(targets), draws, side, side)
    counts = drawn.sum((2, 3))
    beyond = max(int((counts - targets[:, None]).max()), 0)
    yield bounded(name, "patches beyond the request", beyond, 0.0, "none")
    histograms = [np.bincount(c, minlength=side * side + 1) for c in counts]
    tests = [chi_square(x, y) for x, y in zip(histograms, a["hist_of_masked_count"])]
    measured, limit = max(tests, key=lambda t: t[0] / t[1])
    yield bounded(name, f"histograms of masked counts ({len(tests)})", measured, limit, "chi-square, nearest its limit")
    if "per_cell_count" in a:
        yield from _cells(name, drawn, targets, a["per_cell_count"])


def _cells(name: str, drawn: np.ndarray, targets: np.ndarray, recorded: np.ndarray) -> Iterator[Check]:
    """How often each cell was masked, for each request: the one nearest its limit."""
    if recorded.shape != drawn.sum(1).shape:
        yield compare(name, "masks of each cell", drawn.sum(1), recorded)
        return
    checks = []
    for target, masks, counts in zip(targets, drawn, recorded):
        measured, limit = counts_gap(masks.reshape(len(masks), -1), counts.ravel())
        gap = float(np.abs(masks.mean(0) - counts / len(masks)).max())
        checks.append(bounded(name, f"request {target}", measured, limit, "chi-square of the cells", gap))
    yield from worst(name, "masks of each cell", checks)


def _replayed(name: str, a: Arrays) -> Iterator[Check]:
    crops, patches = a["collated_masks"].shape
    side = int(patches**0.5)
    ours = reference_masks(random.Random(int(a["seed"])), crops, (side, side))
    bound = m.upper_bound(crops, patches)
    packed = m.pack(jnp.asarray(a["collated_masks"])[None], bound)
    n = int(packed.count[0])
    yield compare(name, "replayed batch", ours, a["collated_masks"])
    yield compare(name, "upper bound", bound, a["upperbound"])
    yield compare(name, "masked patches", n, np.ravel(a["n_masked_patches"])[0])
    yield compare(name, "indices", packed.indices[0, :n], a["mask_indices_list"])
    yield compare(name, "weights", packed.weights[0, :n], a["masks_weight"], rtol=1e-6)


def _batches(name: str, a: Arrays) -> Iterator[Check]:
    """Batches drawn on the device against recorded ones: each recorded column, and the masked patches of a crop."""
    rows = dict(zip(a["columns"].tolist(), a["rows"].T))
    recorded, histogram = len(a["rows"]), a["hist_masked_per_crop"]
    crops, patches = int(histogram.sum()) // recorded, len(histogram) - 1
    side, batches = int(patches**0.5), max(recorded, BATCHES)
    drawn = jax.jit(lambda k: m.sample_masks(k, batches, crops, (side, side)))(jax.random.key(3))
    masked = np.asarray(drawn.masks).sum(2)  # (batch, crop)
    bound = m.upper_bound(crops, patches)
    ours = {
        "n_masked_patches": masked.sum(1),
        "upperbound": np.full(batches, bound),
        "n_crops_with_mask": (masked > 0).sum(1),
        "max_per_crop": masked.max(1),
        "sum_masks_weight": np.asarray(drawn.weights, np.float64).sum(1),
    }
    for column, values in rows.items():
        if column not in ours:
            yield skipped(name, f"column {column} of the batches: not known")
            continue
        gap, limit = mean_gap(ours[column], values.mean(), values.std(), recorded)
        difference = abs(ours[column].mean() - values.mean())
        yield bounded(name, f"{column} of a batch", gap, limit, "standard errors", difference)
    most = max(int(masked.sum(1).max()), int(rows.get("n_masked_patches", np.zeros(1)).max()))
    yield bounded(name, "largest batch", most, bound, "the upper bound")
    yield compare(name, "sum of weights = masked crops", ours["sum_masks_weight"], (masked > 0).sum(1), rtol=1e-5)
    measured, limit = chi_square(np.bincount(masked.ravel(), minlength=patches + 1), histogram)
    yield bounded(name, "masked patches of a crop", measured, limit, "chi-square")
