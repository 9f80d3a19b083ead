"""ViT features by official names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import combinations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.vit import ViT
from histojax.weights.search import clean_names
from parity_cases.check import Check, compare, failed, same
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.trees import backbone_tree, resampling, vit_of

ATOL = 2e-5
LAYERS = re.compile(r"(last|layers)([\d_-]+?)(_nonorm)?_(\d+)_(patch|cls)")


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with `param/...` and `<size>/x_norm_clstoken`; inputs `input/<size>` or `input/<size>_i8` in any file."""
    arrays = file.arrays
    sizes = sorted(k.split("/")[0] for k in arrays if re.fullmatch(r"[^/]+/x_norm_clstoken", k))
    if "param/cls_token" not in arrays or not sizes:
        return
    model = cache(partial(_model, arrays.below("param/"), file.meta))
    for size in sizes:
        name = f"{file.name} {size}"
        yield name, partial(_size, name, size, model, folder, arrays.below(f"{size}/"))
    if "chunked_names" in arrays:
        yield f"{file.name} names", partial(_chunked, f"{file.name} names", arrays)


def _model(tensors: Arrays, meta: dict) -> ViT:
    config = vit_of(tensors, meta["heads"], resampling(meta))
    graph = nnx.graphdef(nnx.eval_shape(lambda: ViT(config, nnx.Rngs(0))))
    return nnx.merge(graph, backbone_tree(tensors))


def _images(size: str, images: int, folder: Folder) -> jnp.ndarray:
    """The input of that name, channels last; of several, the one with the right number of images."""
    names = {f"input/{size}", f"input/{size}_i8"}
    found = [(f, n) for f in folder.named(names) for n in names & set(f.names)]
    fitting = [(f, n) for f, n in found if len(f.arrays.peek(n)) == images]
    alike = [(f, n) for f, n in fitting if np.array_equal(f.arrays.peek(n), fitting[0][0].arrays.peek(fitting[0][1]))]
    if not fitting or len(alike) < len(fitting):
        problem = "several different arrays" if fitting else "no array"
        raise ValueError(f"{problem} input/{size} or input/{size}_i8 of {images} images in the folder")
    for file, name in fitting:
        pixels = file.arrays[name]
    scale = file.meta["crop_scale"] if pixels.dtype.kind in "iu" else 1
    return jnp.asarray(np.moveaxis(pixels.astype(np.float32) / scale, 1, -1))


def _size(name: str, size: str, build: Callable[[], ViT], folder: Folder, want: Arrays) -> Iterator[Check]:
    model = build()
    images = _images(size, len(want["x_norm_clstoken"]), folder)
    grid = (images.shape[1] // model.config.patch, images.shape[2] // model.config.patch)
    yield from _tokens(name, "", model(images), want)
    if "masked/mask" in want:
        masked = model(images, jnp.asarray(want["masked/mask"]))
        yield from _tokens(name, "masked ", masked, want.below("masked/"))
    if "pos_embed_used" in want:
        front, patches = model.positions(grid)
        used = jnp.concatenate([front[:, :1], patches], 1)
        yield compare(name, "positions used", used, want["pos_embed_used"], atol=ATOL)
    if "reshaped_last" in want:
        last = model.intermediate(images, 1)[0]["patches"]
        maps = last.reshape(*last.shape[:1], *grid, -1).transpose(0, 3, 1, 2)
        yield compare(name, "intermediate, reshaped", maps, want["reshaped_last"], atol=ATOL)
    yield from _intermediate(name, model, images, want)


def _tokens(name: str, label: str, tokens: dict, want: Arrays) -> Iterator[Check]:
    theirs = {"x_norm_clstoken": "cls", "x_norm_regtokens": "registers", "x_norm_patchtokens": "patches"}
    theirs |= {"default_forward": "cls", "x_prenorm": "prenorm"}
    for key, ours in theirs.items():
        if key in want:
            what = f"{label}{ours}" + (" by default" if key == "default_forward" else "")
            yield compare(name, what, tokens[ours], want[key], atol=ATOL)


def _intermediate(name: str, model: ViT, images: jnp.ndarray, want: Arrays) -> Iterator[Check]:
    """`last<n>_<i>_*` are the last n blocks, `layers<numbers>_<i>_*` listed blocks; `_nonorm` before the norm."""
    groups: dict[tuple[str, ...], list[re.Match]] = {}
    for key in want:
        if match := LAYERS.fullmatch(key):
            groups.setdefault((match[1], match[2], match[3] or ""), []).append(match)
    for (kind, numbers, nonorm), matches in sorted(groups.items()):
        count = 1 + max(int(m[4]) for m in matches)
        chosen = int(numbers) if kind == "last" else listed_blocks(numbers, count, model.config.depth)
        if chosen is None:
            yield failed(name, f"{kind}{numbers}: not {count} blocks of {model.config.depth}, or more than one reading")
            continue
        layers = model.intermediate(images, chosen, norm=not nonorm)
        for match in matches:
            ours = layers[int(match[4])]["patches" if match[5] == "patch" else "cls"]
            yield compare(name, f"intermediate {match[0]}", ours, want[match[0]], atol=ATOL)


def listed_blocks(numbers: str, count: int, depth: int) -> tuple[int, ...] | None:
    """The `count` blocks that "01", "10" or "9_11" stands for; None unless exactly one set of blocks can be meant.
    A reading in rising order goes before one in any other."""
    parts = [p for p in re.split(r"[_-]", numbers) if p]
    if len(parts) > 1:
        readings = [parts]
    else:
        cuts = combinations(range(1, len(numbers)), count - 1)
        readings = [[numbers[a:b] for a, b in zip((0, *cut), (*cut, len(numbers)))] for cut in cuts]
    plain = [r for r in readings if all(p == str(int(p)) and int(p) < depth for p in r)]
    blocks = [tuple(int(p) for p in r) for r in plain if len(set(r)) == count]
    rising = [b for b in blocks if list(b) == sorted(b)]
    meant = set(rising) or {tuple(sorted(b)) for b in blocks}
    return meant.pop() if len(meant) == 1 else None


def _chunked(name: str, arrays: Arrays) -> Iterator[Check]:
    """Names of the layout in chunks of blocks become the plain ones, in the same order."""
    plain, _ = clean_names(dict.fromkeys(arrays["chunked_names"].tolist()))
    differing = [f"{a} for {b}" for a, b in zip(plain, arrays.below("param/")) if a != b]
    yield same(name, f"{len(plain)} names of chunked blocks", differing)
    yield same(name, "parameters with chunked names", set(plain) ^ set(arrays.below("param/")))
