"""JSON tables: multipliers of parameter groups, official names and shapes, and those of training's own files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from histojax import config as configs
from histojax.models.vit import ViT, ViTConfig, vit_config
from histojax.ssl.heads import Head, HeadConfig
from histojax.ssl.optimizer import parameter_groups
from histojax.training.recipe import recipe_of
from histojax.weights.layouts import dinov2 as layout
from histojax.weights.pickled_dicts import fill_from_pickle
from histojax.weights.search import clean_names
from histojax.weights.tensors import LazyTensor, Storage, TensorFile
from parity_cases.check import Check, compare, same, skipped, worst
from parity_cases.golden import Folder, TableFile
from parity_cases.trees import module_tensors

LETTERS = {"s": "vit_small", "b": "vit_base", "l": "vit_large", "g": "vit_giant2"}
COLUMNS = {"lr_multiplier": "lr", "wd_multiplier": "weight_decay", "is_last_layer": "last_layer"}


def cases(file: TableFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Tables with "groups" (rows of "columns" for each parameter) or "models" (names and shapes)."""
    if not isinstance(file.content, dict):
        return
    groups, models = file.content.get("groups", {}), file.content.get("models", {})
    if isinstance(groups, dict) and "columns" in file.content:
        file.used = True
        for model, rows in groups.items():
            name = f"{file.name} {model}"
            yield name, partial(_groups, name, file.content["columns"], rows)
    if isinstance(models, dict) and models:
        file.used = True
        for model, entry in models.items():
            name = f"{file.name} {model}"
            yield name, partial(_model, name, model, entry)


# parameter groups


def _groups(name: str, columns: list[str], rows: dict[str, list]) -> Iterator[Check]:
    """Our multipliers for a network with these parameter names. Rates are settings, read from one row each."""
    rows = {re.sub(r"^(backbone|dino_head|ibot_head)\.", "", k): v for k, v in rows.items()}
    lr = {k: v[columns.index("lr_multiplier")] for k, v in rows.items()}
    depth = 1 + max((int(k.split(".")[1]) for k in rows if k.startswith("blocks.")), default=0)
    decay = next((v for k, v in lr.items() if k.startswith(f"blocks.{depth - 1}.")), 1.0)
    patch = lr["patch_embed.proj.weight"] / lr["cls_token"] if "cls_token" in lr else 1.0
    module, shapes, write = _head_like(rows) if any("last_layer" in k for k in rows) else _vit_like(rows, depth)
    groups = parameter_groups({module: shapes}, depth, decay, patch)[module]
    known = [i for i, c in enumerate(columns) if c in COLUMNS]
    ours = [_column(COLUMNS[columns[i]], groups, shapes, write) for i in known]
    yield same(name, "parameters covered", set(ours[0]) ^ set(rows))
    checks = [
        compare(name, k, [column[k] for column in ours], np.asarray(rows[k], float)[known], atol=1e-12)
        for k in set(ours[0]) & set(rows)
    ]
    yield from worst(name, f"multipliers, decay {decay:g}, patches {patch:g}", checks)
    if len(known) < len(columns):
        yield skipped(name, f"columns {', '.join(c for c in columns if c not in COLUMNS)}: not known")


def _column(field: str, groups: Any, shapes: Any, write: Callable) -> dict[str, float]:
    """One multiplier of every parameter by its official name."""

    def fill(group: Any, leaf: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(getattr(group, field), np.float64), leaf.shape)

    return {k: v.flat[0] for k, v in write(jax.tree.map(fill, groups, shapes)).items()}


def _vit_like(rows: dict[str, list], depth: int) -> tuple[str, dict, Callable]:
    """A narrow ViT with these parameters: the width is of no matter."""
    config = ViTConfig(
        8,
        depth,
        1,
        image=28,
        registers=int("register_tokens" in rows),
        ffn="swiglu" if "blocks.0.mlp.w12.weight" in rows else "mlp",
        hidden=8,
        layerscale=1.0 if "blocks.0.ls1.gamma" in rows else None,
        mask_token="mask_token" in rows,
    )
    return "backbone", _shapes(lambda: ViT(config, nnx.Rngs(0))), layout.META.write


def _head_like(rows: dict[str, list]) -> tuple[str, dict, Callable]:
    layers = sum(1 for k in rows if k.startswith("mlp") and k.endswith("weight"))
    config = HeadConfig(8, 8, 8, 8, layers)
    return "dino_head", _shapes(lambda: Head(config, nnx.Rngs(0))), layout.write_head


def _shapes(make: Callable[[], nnx.Module]) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make)))


def _ghosts(shapes: Any) -> Any:
    """Arrays of these shapes that take no memory."""
    return jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), shapes)


# names and shapes


def _model(name: str, model: str, entry: dict) -> Iterator[Check]:
    size = re.search(r"vit([sblg])(\d+)", model)
    kinds = {"keys_and_shapes": _published, "block_names": _chunked, "top_level": _training_file}
    kind = next((k for k in kinds if k in entry), None)
    if size is None or size[1] not in LETTERS or kind is None:
        yield skipped(name, "no network of ours is known by this name" if kind else "no names or shapes in it")
        return
    yield from kinds[kind](name, model, LETTERS[size[1]], int(size[2]), entry)


def _published(name: str, model: str, size: str, patch: int, entry: dict) -> Iterator[Check]:
    """A released backbone; of its blocks the listing may have the first one only."""
    registers = re.search(r"reg(\d*)", model)
    vit = vit_config(size, patch=patch, registers=int(registers[1] or 4) if registers else 0)
    tensors = layout.META.write(_ghosts(_shapes(lambda: ViT(vit, nnx.Rngs(0)))))
    listed = {k: tuple(v) for k, v in entry["keys_and_shapes"].items()}
    blocks = {k.split(".")[1] for k in listed if k.startswith("blocks.")}
    ours = {k: v.shape for k, v in tensors.items() if not k.startswith("blocks.") or k.split(".")[1] in blocks}
    yield same(name, f"{len(ours)} names and shapes", {k for k in {*ours, *listed} if ours.get(k) != listed.get(k)})
    if "depth" in entry:
        yield compare(name, "depth", vit.depth, entry["depth"])
    if "n_parameters" in entry:
        yield compare(name, "parameters", sum(v.size for v in tensors.values()), entry["n_parameters"])


def _chunked(name: str, model: str, size: str, patch: int, entry: dict) -> Iterator[Check]:
    """A backbone as it is trained from the start: blocks in chunks, SwiGLU, positions of the global crops."""
    swiglu = any("w12" in k for k in entry.get("mlp_shapes", {}))
    vit = dataclasses.replace(vit_config(size, patch=patch), ffn="swiglu" if swiglu else "mlp")
    if "pos_embed" in entry:
        side = round((entry["pos_embed"][1] - 1) ** 0.5)
        vit = dataclasses.replace(vit, image=side * patch)
    tensors = layout.META.write(_ghosts(_shapes(lambda: ViT(vit, nnx.Rngs(0)))))
    plain, _ = clean_names({f"{block}.norm1.weight": None for block in entry["block_names"]})
    differing = set(plain) ^ {f"blocks.{i}.norm1.weight" for i in range(vit.depth)}
    yield same(name, f"{len(plain)} names of chunked blocks", differing)
    listed, _ = clean_names(entry.get("mlp_shapes", {}))
    listed |= {"pos_embed": entry["pos_embed"]} if "pos_embed" in entry else {}
    wrong = [k for k, shape in listed.items() if k not in tensors or list(tensors[k].shape) != shape]
    yield same(name, f"{len(listed)} shapes", wrong)


def _training_file(name: str, model: str, size: str, patch: int, entry: dict) -> Iterator[Check]:
    """The teacher's file of the paper's training: top-level key, prefixes, the head, positions of the crops."""
    config = configs.paper()
    config.model.update(size=size, patch=patch)
    recipe = recipe_of(config)
    shapes = jax.eval_shape(lambda: recipe.init(jax.random.key(0)))
    tensors = {k: list(v.shape) for k, v in module_tensors(_ghosts(shapes)).items()}
    token = LazyTensor((1,), np.dtype(np.float32), Path(), Storage(np.dtype(np.float32), 1), 0, (1,))
    root: dict[str, Any] = {"backbone.cls_token": token}
    for key in reversed(entry["top_level"]):
        root = {key: root}
    (found,) = fill_from_pickle(TensorFile(Path("teacher_checkpoint.pth"), "zip .pth", {}), root).tensors
    yield same(name, "keys around the tensors", set(entry["top_level"]) ^ set(found.split("/")[:-1]))
    yield same(name, "prefixes", {k.split(".")[0] + "." for k in tensors} ^ set(entry["prefixes"]))
    listed = {**entry.get("dino_head", {})}
    if "pos_embed" in entry:
        listed["backbone.pos_embed"] = entry["pos_embed"]
    yield same(name, f"{len(listed)} shapes", [k for k, shape in listed.items() if tensors.get(k) != shape])
