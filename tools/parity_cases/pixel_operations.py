"""Pixel operations and crops of recorded pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from histojax.data.preprocess import fit
from histojax.ssl import color
from histojax.ssl.augment import STD, normalize
from histojax.ssl.resize import crop_resize
from histojax.zoo.record import Preprocess
from parity_cases.check import Check, bounded, compare, failed
from parity_cases.golden import ArrayFile, Arrays, Folder

LEVEL = 1 / 255 / max(STD)  # one grey level after normalising: the least that it becomes in a channel
BOX = "/box_top_left_h_w_size"
OPERATIONS: dict[str, Callable] = {  # by the names of recorded arrays, "hue/0.05" and the like
    "brightness": color.brightness,
    "contrast": color.contrast,
    "saturation": color.saturation,
    "hue": color.hue,
    "blur_k9": color.gaussian_blur,
    "grayscale3": color.grayscale,
    "solarize128": color.solarize,
}


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with a picture (`image`) and what became of it: `<operation>/<parameter>`, `crop<n>/...`, and others."""
    if "image" not in file.names or file.arrays.peek("image").ndim != 3:
        return
    for part in (_operations, _crops, _whole):
        name = f"{file.name} {part.__name__[1:]}"
        yield name, partial(part, name, file.arrays)


def _levels(name: str, what: str, ours: np.ndarray, expected: np.ndarray, level: float = 1.0) -> Check:
    """At most 2 grey levels apart, 0.5 on average."""
    gap = np.abs(np.asarray(ours, np.float64) - np.asarray(expected, np.float64)) / level
    if gap.shape != np.shape(expected):
        return failed(name, f"{what}: shape {np.shape(ours)}, expected {np.shape(expected)}")
    most, mean = float(gap.max()), float(gap.mean())
    return bounded(name, what, max(most / 2, mean / 0.5), 1.0, "2 grey levels, 0.5 on average", most, mean)


def _operations(name: str, a: Arrays) -> Iterator[Check]:
    for key in sorted(a):
        operation, _, parameter = key.partition("/")
        if operation in OPERATIONS:
            ours = on_pixels(OPERATIONS[operation], *([float(parameter)] if parameter else []))(a["image"])
            yield _levels(name, key, ours, a[key])


def _crops(name: str, a: Arrays) -> Iterator[Check]:
    picture = jnp.asarray(np.moveaxis(a["image"], -1, 0), jnp.float32)
    for key in sorted(k for k in a if k.endswith(BOX)):
        crop, (*box, size) = key.removesuffix(BOX), (int(v) for v in a[key])
        ours = crop_resize(picture, jnp.asarray(box), size)
        yield _levels(name, crop, np.moveaxis(ours, 0, -1), a[f"{crop}/out"])
        for chain in [k for k in a if re.fullmatch(rf"chain/blur[\d.]+_then_normalize_of_{crop}", k)]:
            sigma = float(re.search(r"blur([\d.]+)_", chain)[1])
            blurred = normalize(jnp.moveaxis(color.gaussian_blur(ours, jnp.float32(sigma)), 0, -1))
            yield _levels(name, chain, np.moveaxis(blurred, -1, 0), a[chain], LEVEL)


def _whole(name: str, a: Arrays) -> Iterator[Check]:
    """The picture normalised, and as it is for evaluation: `eval_transform_<shorter side>_<crop>`."""
    if "normalized" in a:
        yield compare(name, "normalized", np.moveaxis(normalize(a["image"]), -1, 0), a["normalized"], atol=1e-5)
    for key in a:
        if match := re.fullmatch(r"eval_transform_(\d+)_(\d+)", key):
            pixels = fit(a["image"], Preprocess(int(match[1]), int(match[2]), "bicubic"))
            yield _levels(name, key, np.moveaxis(normalize(pixels), -1, 0), a[key], LEVEL)


def on_pixels(operation: Callable, *parameters: float) -> Callable[[np.ndarray], np.ndarray]:
    """The operation on a picture: f(uint8 (H, W, 3)) -> uint8 (H, W, 3)."""

    def run(picture: np.ndarray) -> np.ndarray:
        planar = jnp.asarray(picture.transpose(2, 0, 1), jnp.float32)
        out = jax.jit(operation)(planar, *(jnp.float32(p) for p in parameters))
        return np.asarray(out).transpose(1, 2, 0).astype(np.uint8)

    return run
