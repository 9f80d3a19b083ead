"""ViT features by official names, and the resampling of position grids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.positions import resample
from histojax.models.vit import ViT
from parity_cases.check import Check, archives, below, compare
from parity_cases.trees import backbone_tree, vit_of

MODES = {"offset0.1": "offset", "size": "exact", "antialias_size": "antialias", "fork_load": "exact"}


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Folders hold files with `param/...` and `<size>/x_norm_clstoken`, with inputs `input/<size>_i8` in another."""
    inputs = {}
    for _, data, meta in archives(folder):
        for size, pixels in below(data, "input/").items():
            inputs[size.removesuffix("_i8")] = pixels.astype(np.float32) / meta["crop_scale"]
    for path, data, meta in archives(folder):
        if "param/cls_token" in data and any(k.endswith("/x_norm_clstoken") for k in data.files):
            yield path.stem, partial(_features, path.stem, {k: data[k] for k in data.files}, meta, inputs)
        if any(re.fullmatch(r"from\d+/pos_embed", k) for k in data.files):
            yield path.stem, partial(_positions, path.stem, {k: data[k] for k in data.files})


def _features(name: str, data: dict, meta: dict, inputs: dict) -> Iterator[Check]:
    params = {k[6:]: v for k, v in data.items() if k.startswith("param/")}
    config = vit_of(params, meta["heads"], meta["interpolate_antialias"])
    graph = nnx.graphdef(nnx.eval_shape(lambda: ViT(config, nnx.Rngs(0))))
    model = nnx.merge(graph, backbone_tree(params))
    for key in sorted(k for k in data if k.endswith("/x_norm_clstoken") and "masked" not in k):
        size = key.split("/")[0]
        images = jnp.asarray(inputs[size].transpose(0, 2, 3, 1))
        yield from _size(
            f"{name} {size}",
            model,
            images,
            {k[len(size) + 1 :]: v for k, v in data.items() if k.startswith(size + "/")},
        )


def _size(name: str, model: ViT, images: jnp.ndarray, want: dict) -> Iterator[Check]:
    same = partial(compare, name, atol=2e-5)
    tokens = model(images)
    grid = tuple(n // model.config.patch for n in images.shape[1:3])
    for ours, key in (
        ("cls", "x_norm_clstoken"),
        ("registers", "x_norm_regtokens"),
        ("patches", "x_norm_patchtokens"),
    ):
        yield same(ours, tokens[ours], want[key])
    yield same("default forward", tokens["cls"], want["default_forward"])
    if "x_prenorm" in want:
        yield same("before the final norm", tokens["prenorm"], want["x_prenorm"])
    if "pos_embed_used" in want:
        front, patches = model.positions(grid)
        used = jnp.concatenate([front[:, :1], patches], 1)
        yield same("positions used", used, want["pos_embed_used"])
    if "masked/mask" in want:
        masked = model(images, jnp.asarray(want["masked/mask"]))
        yield same("masked cls", masked["cls"], want["masked/x_norm_clstoken"])
        yield same("masked patches", masked["patches"], want["masked/x_norm_patchtokens"])
    if "reshaped_last" in want:
        last = model.intermediate(images, 1)[0]["patches"]
        maps = last.reshape(*last.shape[:1], *grid, -1).transpose(0, 3, 1, 2)
        yield same("intermediate, reshaped", maps, want["reshaped_last"])
    yield from _intermediate(name, model, images, want)


def _intermediate(name: str, model: ViT, images: jnp.ndarray, want: dict) -> Iterator[Check]:
    """`last<n>_<i>_*` are the last n blocks with norm, `layers<digits>_nonorm_<i>_*` listed blocks without."""
    for key in sorted(want):
        match = re.fullmatch(r"(last(\d+)|layers(\d+)_nonorm)_(\d+)_(patch|cls)", key)
        if match:
            chosen = int(match[2]) if match[2] else tuple(int(d) for d in match[3])
            layers = model.intermediate(images, chosen, norm=bool(match[2]))
            ours = layers[int(match[4])]["patches" if match[5] == "patch" else "cls"]
            yield compare(name, f"intermediate {key}", ours, want[key], atol=2e-5)


def _positions(name: str, data: dict) -> Iterator[Check]:
    for key in sorted(data):
        match = re.fullmatch(r"from(\d+)/(.+)[/_](\d+)x(\d+)", key)
        mode = match and MODES.get(match[2])
        if not match or not mode:
            continue
        side, size = int(match[1]), (int(match[3]), int(match[4]))
        grid = jnp.asarray(data[f"from{side}/pos_embed"][0, 1:])
        ours = grid if size == (side, side) else resample(grid, size, mode)
        yield compare(name, key, ours, data[key][0, 1:], atol=1e-5)
