"""Golden preprocessing: uint8 images, and what torchvision, Pillow and Hugging Face make of them.

Arrays are called `<image>:<what was done>`: filter and shorter side, `_center` with the side of the crop if it is
another, then a normalisation or `_sum`, and `_stride<n>` if only every n-th pixel was kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from histojax.data.preprocess import fit, normalise
from histojax.zoo.record import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from histojax.zoo.table import ENCODERS
from parity_cases.check import Check, compare
from parity_cases.golden import ArrayFile, Arrays, Folder

STEPS = re.compile(r"(bilinear|bicubic)(\d+)(_center(\d*))?(_imagenet|_clip)?(_sum)?(_stride(\d+))?")
PIPELINES = {"sam_float": "sam_vit_b", "beit_fb_pipeline": "beit_paper"}  # named after a model: our record of it
STATISTICS = {"_imagenet": (IMAGENET_MEAN, IMAGENET_STD), "_clip": (CLIP_MEAN, CLIP_STD)}
# Hugging Face's processor rounds to 8 bits once more inside its resize (3e-5 here)
ATOL = {"beit_fb_pipeline": 6e-5}


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with a uint8 image and arrays `<image>:...`; its meta says `part` if the images are not whole."""
    if "part" in file.meta:
        file.arrays.aside(file.names, file.meta["part"])
        return
    for image in [k for k in file.names if ":" not in k and any(o.startswith(f"{k}:") for o in file.names)]:
        name = f"{file.name} {image}"
        yield name, partial(_image, name, file.arrays, image, file.arrays.below(f"{image}:"))


def _image(name: str, images: Arrays, image: str, arrays: Arrays) -> Iterator[Check]:
    tile = images[image]
    for key in arrays:
        if pipeline_of(key) or STEPS.fullmatch(key):
            yield _check(name, key, tile, arrays[key])
        else:
            arrays.aside([key], "unknown steps")


def pipeline_of(key: str) -> str | None:
    """The pipeline of a model that a key is named after."""
    return next((p for p in PIPELINES if key.startswith(p)), None)


def _check(name: str, key: str, tile: np.ndarray, wanted: np.ndarray) -> Check:
    pipeline, steps = pipeline_of(key), STEPS.fullmatch(key)
    stride = re.search(r"_stride(\d+)$", key)
    rule = ENCODERS[PIPELINES[pipeline]].preprocess if pipeline else _rule(steps)
    pixels = fit(tile, rule)
    if wanted.dtype == np.uint8:
        return compare(name, key, _thinned(pixels, stride), wanted)
    if steps and steps[6]:
        return compare(name, key, pixels.astype(np.int64).sum((0, 1)), wanted)
    ours = _thinned(normalise(pixels, rule), stride).transpose(2, 0, 1)
    return compare(name, key, ours, wanted, atol=ATOL.get(pipeline or "", 1e-6))


def _rule(steps: re.Match) -> Preprocess:
    filter, size, centre, crop, statistics = steps.groups()[:5]
    mean, std = STATISTICS.get(statistics or "_imagenet")
    return Preprocess(int(size), int(crop or size) if centre else None, filter, mean, std)


def _thinned(pixels: np.ndarray, stride: re.Match | None) -> np.ndarray:
    return pixels[:: int(stride[1]), :: int(stride[1])] if stride else pixels
