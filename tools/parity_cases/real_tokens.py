"""Tokens of a really pretrained DINOv2 for uint8 tiles, by another program; its weights are given with --weights.

The file goes through `load_encoder`, tiles as they are, and the position grid as transformers resamples it, which is
what exported graphs of it do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from histojax import load_encoder
from histojax.zoo.table import ENCODERS
from parity_cases.check import Check, compare, failed
from parity_cases.extractors import detection
from parity_cases.golden import ArrayFile, Folder

ATOL, RTOL = 3e-5, 1e-5
OTHERS = ("meta", "timm")  # whose grids must give other tokens


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with `images` (N, H, W, 3) uint8 and `tokens` (N, 1 + P, D), the class token first."""
    if not {"images", "tokens"} <= set(file.names):
        return
    if folder.given is None:
        file.arrays.aside(file.names, "needs the network's weights: --weights FILE")
        return
    yield file.name, partial(_tokens, file, folder.given)


def _tokens(file: ArrayFile, weights: Path) -> Iterator[Check]:
    name, images, wanted = file.name, file.arrays["images"], file.arrays["tokens"]
    encoder = name_of_width(wanted.shape[-1])
    if encoder is None:
        yield failed(name, f"no DINOv2 of ours is {wanted.shape[-1]} wide")
        return
    ours = _run(encoder, weights, images, "hf")
    yield compare(name, "class token", ours[:, 0], wanted[:, 0], atol=ATOL, rtol=RTOL)
    yield compare(name, "patch tokens", ours[:, 1:], wanted[:, 1:], atol=ATOL, rtol=RTOL)
    for whose in OTHERS:
        run = partial(_run, encoder, weights, images, whose)
        yield detection(name, f"position grid of {whose}", None, wanted, run)


def name_of_width(width: int) -> str | None:
    """The DINOv2 without registers whose tokens have this width."""
    found = (r.name for r in ENCODERS.values() if re.fullmatch(r"dinov2_vit.14", r.name) and r.features == width)
    return next(found, None)


def _run(encoder: str, weights: Path, images: np.ndarray, whose: str) -> np.ndarray:
    """(N, 1 + P, D) tokens after the final norm, class token first."""
    loaded = load_encoder(encoder, weights, resize=False, positions=whose, batch_size=len(images))
    return np.concatenate([loaded(images)[:, None], loaded.tokens(images)], axis=1)
