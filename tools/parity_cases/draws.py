"""Random parameters of the crops: against recorded quantiles and shares, and against what the method says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl.augment import CropConfig, CropParams, sample_crops
from histojax.ssl.color import gaussian_blur
from parity_cases.check import Check, bounded, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.statistics import denominator, kolmogorov_smirnov, rarest, rarity, share_gap

IMAGES = 10_000  # drawn for each statistic
FEW_BOXES = 1000  # taken as the number of recorded boxes where the file does not say it: the test is weaker then
SHARES = {  # of the first global, the second global and the local crops (specification of the method, paper's flips)
    "vertical flips": (0.5, 0.5, 0.5),
    "horizontal flips": (0.5, 0.5, 0.5),
    "jitter": (0.8, 0.8, 0.8),
    "grey": (0.2, 0.2, 0.2),
    "blur": (0.0, 0.9, 0.5),
    "solarize": (0.0, 0.2, 0.0),
}
RANGES = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
SIGMA = (0.1, 2.0)


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with a picture and `stats/rrc_*` quantiles of boxes or `stats/blur_fraction_*`."""
    arrays = file.arrays
    if "image" not in arrays or not any(k.startswith(("stats/rrc_", "stats/blur_fraction")) for k in arrays):
        return
    boxes = re.search(r"(\d+) crop boxes", str(file.meta.get("note", "")))
    name = f"{file.name} draws"
    yield name, partial(_draws, name, arrays, int(boxes[1]) if boxes else FEW_BOXES)


def _draws(name: str, a: Arrays, recorded: int) -> Iterator[Check]:
    drawn = drawn_crops(a["image"].shape[:2], CropConfig())
    yield from _boxes(name, a, drawn, recorded)
    yield from _blurred(name, a, drawn)
    yield from _shares(name, drawn)
    yield from _factors(name, drawn)


def drawn_crops(size: tuple[int, int], config: CropConfig) -> CropParams:
    """Parameters of the crops of many images of one size."""
    keys = jax.random.split(jax.random.key(5), IMAGES)
    return jax.jit(jax.vmap(lambda k: sample_crops(k, *size, config)))(keys)


def _boxes(name: str, a: Arrays, drawn: CropParams, recorded: int) -> Iterator[Check]:
    height, width = a["image"].shape[:2]
    for kind, box in {"global": drawn.box[:, :2], "local": drawn.box[:, 2:]}.items():
        h, w = (np.asarray(box[..., i], np.float64).ravel() for i in (2, 3))
        quantities = {"area_fraction": h * w / (height * width), "log_aspect": np.log(w / h)}
        for quantity, values in quantities.items():
            key = f"stats/rrc_{kind}_{quantity}_quantiles"
            if key in a:
                distance, limit = kolmogorov_smirnov(values, a[key], recorded)
                words = f"Kolmogorov-Smirnov, {recorded} and {len(values)} boxes"
                yield bounded(name, f"{kind} {quantity}", distance, limit, words)


def _blurred(name: str, a: Arrays, drawn: CropParams) -> Iterator[Check]:
    """The reference's blur, built with p, is applied with 1 - p; a blur that changes no pixel was not counted."""
    prefix = "stats/blur_fraction_when_built_with_p"
    keys = [k for k in a if k.startswith(prefix)]
    if not keys:
        return
    recorded = {k: float(a[k]) for k in keys}
    count, least = denominator(list(recorded.values())), _least_sigma(a["image"])
    visible = float((np.asarray(drawn.sigma) > least).mean())
    for key, share in recorded.items():
        ours = (1 - float(key.removeprefix(prefix))) * visible
        measured, limit = share_gap(ours, 10**6, share, count)
        yield bounded(name, key.removeprefix("stats/"), measured, limit, "powers of ten", abs(ours - share))


def _least_sigma(picture: np.ndarray) -> float:
    """The largest sigma whose blur changes no pixel of the picture."""
    planar = jnp.asarray(np.moveaxis(picture, -1, 0), jnp.float32)
    changes = jax.jit(lambda sigma: (gaussian_blur(planar, sigma) != planar).any())
    low, high = SIGMA
    if changes(jnp.float32(low)):
        return low
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if changes(jnp.float32(middle)) else (middle, high)
    return low


def _shares(name: str, drawn: CropParams) -> Iterator[Check]:
    """How often each operation is drawn by default, which no array of a picture shows."""
    flips = drawn.flip[..., 0], drawn.flip[..., 1]
    checks = []
    for (what, wanted), drawn_for in zip(
        SHARES.items(), (*flips, drawn.jitter, drawn.gray, drawn.blur, drawn.solarize)
    ):
        flags = np.asarray(drawn_for)
        for view, values, share in zip(("global 1", "global 2", "local"), np.split(flags, (1, 2), 1), wanted):
            measured = rarity(int(values.sum()), values.size, share)
            gap = abs(float(values.mean()) - share)
            checks.append(bounded(name, f"{what}, {view}", measured, rarest(18), "powers of ten", gap))
    yield from worst(name, "share of crops for each operation", checks)


def _factors(name: str, drawn: CropParams) -> Iterator[Check]:
    """The factors of the jitters and the width of the blur are drawn evenly from their ranges."""
    samples = {jitter: np.asarray(drawn.factors[..., i]) for i, jitter in enumerate(RANGES)}
    samples["sigma of the blur"] = np.asarray(drawn.sigma)
    checks = []
    for what, (low, high) in {**RANGES, "sigma of the blur": SIGMA}.items():
        even = np.linspace(low, high, 101)
        distance, limit = kolmogorov_smirnov(samples[what].ravel().astype(np.float64), even, 10**9)
        checks.append(bounded(name, what, distance, limit, "Kolmogorov-Smirnov to even draws"))
    yield from worst(name, "factors of the operations", checks)
