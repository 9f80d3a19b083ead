"""Pixel operations and crops on recorded pictures, their random parameters, and block masks."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl import masks as m
from histojax.ssl.augment import CropConfig, multi_crop, normalize, sample_crops
from histojax.ssl.color import OPERATIONS, gaussian_blur, on_pixels
from histojax.ssl.resize import crop_resize
from parity_cases.check import Check, archives, compare
from parity_cases.training import below_dict

DRAWS = 4000


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Pictures come with `<operation>/<parameter>`, masks with `grid<side>/targets` or `collate_*`."""
    for path, data, _ in archives(folder):
        arrays = {k: data[k] for k in data.files}
        if "image" in arrays and any(k.split("/")[0] in OPERATIONS for k in arrays):
            for part in (_operations, _crops, _boxes, _pipeline):
                yield f"{path.stem} {part.__name__[1:]}", partial(part, path.stem, arrays)
        for side in sorted({int(x[1]) for k in arrays if (x := re.match(r"grid(\d+)/targets", k))}):
            yield (
                f"{path.stem} grid{side}",
                partial(_grid, f"{path.stem} grid{side}", side, below_dict(arrays, f"grid{side}/")),
            )
        for name in sorted({k.split("/")[0] for k in arrays if k.startswith("collate_")}):
            yield f"{path.stem} {name}", partial(_batch, f"{path.stem} {name}", below_dict(arrays, f"{name}/"))


def _levels(name: str, what: str, ours: np.ndarray, expected: np.ndarray, level: float = 1.0) -> Check:
    """At most 2 grey levels apart, 0.5 on average."""
    gap = np.abs(np.asarray(ours, np.float64) - np.asarray(expected, np.float64)) / level
    if gap.shape != np.shape(expected):
        return Check(name, f"{what}: shape", np.inf, np.inf, "equal", False)
    ok = bool(gap.max() <= 2 and gap.mean() <= 0.5)
    return Check(name, what, float(gap.max()), float(gap.mean()), "2 levels, mean (rel) 0.5", ok)


def _operations(name: str, a: dict) -> Iterator[Check]:
    for key in sorted(a):
        operation, _, parameter = key.partition("/")
        if operation in OPERATIONS:
            ours = on_pixels(OPERATIONS[operation], *([float(parameter)] if parameter else []))(a["image"])
            yield _levels(name, key, ours, a[key])
    if "normalized" in a:
        yield compare(name, "normalized", np.moveaxis(normalize(a["image"]), -1, 0), a["normalized"], atol=1e-5)


def _crops(name: str, a: dict) -> Iterator[Check]:
    picture = jnp.asarray(np.moveaxis(a["image"], -1, 0), jnp.float32)
    for key in sorted(k for k in a if k.endswith("/box_top_left_h_w_size")):
        crop, (*box, size) = key.split("/")[0], (int(v) for v in a[key])
        ours = crop_resize(picture, jnp.asarray(box), size)
        yield _levels(name, crop, np.moveaxis(ours, 0, -1), a[f"{crop}/out"])
        chain = next((k for k in a if re.fullmatch(rf"chain/blur[\d.]+_then_normalize_of_{crop}", k)), None)
        if chain:
            sigma = float(re.search(r"blur([\d.]+)_", chain)[1])
            blurred = normalize(jnp.moveaxis(gaussian_blur(ours, jnp.float32(sigma)), 0, -1))
            yield _levels(name, chain, np.moveaxis(blurred, -1, 0), a[chain], level=1 / 255 / 0.224)


def _boxes(name: str, a: dict) -> Iterator[Check]:
    height, width = a["image"].shape[:2]
    keys = jax.random.split(jax.random.key(5), DRAWS)
    drawn = jax.jit(jax.vmap(lambda k: sample_crops(k, height, width, CropConfig())))(keys)
    boxes = {"global": drawn.box[:, :2], "local": drawn.box[:, 2:]}
    for kind, box in boxes.items():
        h, w = (np.asarray(box[..., i], np.float64).ravel() for i in (2, 3))
        quantities = {"area_fraction": h * w / (height * width), "log_aspect": np.log(w / h)}
        for quantity, values in quantities.items():
            key = f"stats/rrc_{kind}_{quantity}_quantiles"
            if key in a:
                distance, limit = _kolmogorov_smirnov(values, a[key])
                yield Check(
                    name, f"{kind} {quantity} (KS)", distance, distance / limit, f"{limit:.3f}", distance < limit
                )
    shares = np.asarray(drawn.blur, np.float64).mean(0)
    ours = np.array([shares[0], shares[1], shares[2:].mean()])
    yield compare(name, "share of blurred views", ours, [0.0, 0.9, 0.5], atol=4 * 0.5 / DRAWS**0.5)


def _kolmogorov_smirnov(values: np.ndarray, quantiles: np.ndarray, recorded: int = 4000) -> tuple[float, float]:
    """Distance to recorded quantiles and its critical value at 1 %; boxes are whole pixels, so values repeat."""
    levels = np.linspace(0, 1, len(quantiles))
    below, upto = (np.searchsorted(np.sort(values), quantiles, side) / len(values) for side in ("left", "right"))
    distance = np.maximum(levels - upto, below - levels)[1:-1].max()
    return float(distance), 1.63 * float(np.sqrt(1 / recorded + 1 / recorded))


def _pipeline(name: str, a: dict) -> Iterator[Check]:
    """Mean levels, spreads and share of grey crops of the whole chain, in units of the recorded spread over crops.

    The bound is loose because the size of the recorded crops is not stored, and their detail depends on it; the
    mean step between rows, which depends on it most, is left out.
    """
    config = CropConfig(vflip=0.0, local_crops=2)
    crop = jax.jit(lambda key, images: multi_crop(key, images, 0, config))
    parts = [crop(jax.random.key(i), np.repeat(a["image"][None], 40, 0)) for i in range(4)]
    wide, local = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in (0, 1))
    for view, crops in (("g0", wide[:, 0]), ("g1", wide[:, 1]), ("local", local.reshape(-1, *local.shape[2:]))):
        if f"stats/pipeline_{view}_mean" not in a:
            continue
        kept = [i for i, column in enumerate(a["stats/pipeline_columns"]) if column != "mean_abs_row_diff"]
        ours = _columns(crops, config)[:, kept]
        mean, std = (a[f"stats/pipeline_{view}_{k}"][kept] for k in ("mean", "std"))
        gap, ratio = np.abs(ours.mean(0) - mean) / std, np.abs(np.log(ours.std(0) / std))
        yield Check(name, f"{view} mean", float(gap.max()), float(gap.mean()), "0.5 spreads", bool(gap.max() < 0.5))
        yield Check(
            name, f"{view} spread", float(ratio.max()), float(ratio.mean()), "0.3 in ln", bool(ratio.max() < 0.3)
        )


def _columns(crops: np.ndarray, config: CropConfig) -> np.ndarray:
    """(n, 8): means and spreads of the channels in [0, 1], mean step between rows, and whether it is grey."""
    x = np.asarray(crops, np.float64) * config.std + config.mean
    rows = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    gray = (np.ptp(x, axis=-1) < 1e-4).all((1, 2))
    return np.column_stack([x.mean((1, 2)), x.std((1, 2)), rows, gray])


def _grid(name: str, side: int, a: dict) -> Iterator[Check]:
    if "max_num_patches" in a:
        yield compare(name, "largest block", m.block_cap((side, side)), a["max_num_patches"])
    if "exact_masks" in a:
        triples = zip(a["exact_seeds"], a["exact_targets"])
        ours = [m.reference_block_mask(random.Random(int(s)), (side, side), int(t)) for s, t in triples]
        yield compare(name, f"replayed masks ({len(ours)})", np.stack(ours), a["exact_masks"])
    draws, targets = int(a["draws_per_target"]), a["targets"]
    wanted = jnp.asarray(np.repeat(targets, draws), jnp.int32)
    drawn = jax.jit(lambda k: m.block_masks(k, wanted, (side, side)))(jax.random.key(11))
    counts = np.asarray(drawn).reshape(len(targets), draws, -1).sum(-1)
    beyond = int((counts - targets[:, None]).max())
    yield Check(name, "patches beyond the request", float(max(beyond, 0)), 0.0, "equal", beyond <= 0)
    histograms = [np.bincount(c, minlength=side * side + 1) for c in counts]
    excess = [_chi_square(x, y) for x, y in zip(histograms, a["hist_of_masked_count"])]
    yield Check(
        name, "histograms of masked counts (chi-square)", max(excess), float(np.mean(excess)), "1", max(excess) < 1
    )


def _chi_square(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of two histograms with one source, over its critical value at 1e-4; rare bins are joined."""
    from scipy import stats

    table = np.stack([a, b]).astype(float)
    rare = table.sum(0) < 16
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 0.0
    result = stats.chi2_contingency(table)
    return float(result.statistic / stats.chi2.isf(1e-4, result.dof))


def _batch(name: str, a: dict) -> Iterator[Check]:
    if "collated_masks" in a:
        crops, patches = a["collated_masks"].shape
        side = int(patches**0.5)
        ours = m.reference_masks(random.Random(int(a["seed"])), crops, (side, side))
        bound = m.upper_bound(crops, patches)
        packed = m.pack(jnp.asarray(a["collated_masks"])[None], bound)
        n = int(np.ravel(a["n_masked_patches"])[0])
        yield compare(name, "replayed batch", ours, a["collated_masks"])
        yield compare(name, "upper bound", bound, a["upperbound"])
        yield compare(name, "indices", packed.indices[0, :n], a["mask_indices_list"])
        yield compare(name, "weights", packed.weights[0, :n], a["masks_weight"], rtol=1e-6)
    if "rows" in a:
        yield from _statistics(name, a)


def _statistics(name: str, a: dict) -> Iterator[Check]:
    """Batches drawn on the device against recorded ones: bound, masked patches of a batch, sum of the weights."""
    rows = dict(zip(a["columns"], a["rows"].T))
    crops, patches = 2 * int(re.search(r"(\d+)$", name)[1]), len(a["hist_masked_per_crop"]) - 1
    side = int(patches**0.5)
    drawn = jax.jit(lambda k: m.sample_masks(k, len(a["rows"]), crops, (side, side)))(jax.random.key(3))
    yield compare(name, "upper bound", m.upper_bound(crops, patches), rows["upperbound"][0])
    masked = np.asarray(drawn.masks).sum((1, 2))
    error = np.sqrt(masked.var() / len(masked) + rows["n_masked_patches"].var() / len(masked))
    z = abs(masked.mean() - rows["n_masked_patches"].mean()) / max(error, 1e-9)
    yield Check(name, "masked patches of a batch", float(z), float(z), "4.5 standard errors", bool(z < 4.5))
    with_mask = (np.asarray(drawn.masks).sum(2) > 0).sum(1)
    yield compare(name, "sum of weights = masked crops", drawn.weights.sum(1), with_mask, rtol=1e-5)
