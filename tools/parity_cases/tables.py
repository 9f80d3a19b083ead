"""Schedules, parameter groups, and official names and shapes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from histojax import config as configs
from histojax.models.vit import SIZES, ViT, ViTConfig, vit_config
from histojax.ssl.heads import Head, HeadConfig
from histojax.ssl.optimizer import parameter_groups
from histojax.ssl.schedules import Schedules, scaled_lr
from histojax.weights.layouts import dinov2 as layout
from parity_cases.check import Check, archives, compare, worst
from parity_cases.training import below_dict

LETTERS = {"s": "vit_small", "b": "vit_base", "l": "vit_large", "g": "vit_giant2"}
COLUMNS = {"lr": "lr", "last_layer_lr": "last_layer_lr", "wd": "weight_decay", "momentum": "momentum"}
COLUMNS |= {"teacher_temp": "teacher_temp"}


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Schedules have `<plan>/iteration`; the tables are JSON files with "groups" or "models"."""
    for path, data, meta in archives(folder):
        for plan in meta.get("plans", {}):
            arrays = below_dict({k: data[k] for k in data.files}, f"{plan}/")
            yield f"{path.stem} {plan}", partial(_schedule, f"{path.stem} {plan}", meta["plans"][plan], arrays)
    for path in sorted(folder.glob("*.json")):
        table = json.loads(path.read_text())
        for model, rows in table.get("groups", {}).items() if isinstance(table, dict) else ():
            yield f"{path.stem} {model}", partial(_groups, f"{path.stem} {model}", model, rows)
        for model, entry in table.get("models", {}).items() if isinstance(table, dict) else ():
            if isinstance(entry, dict) and "keys_and_shapes" in entry:
                yield f"{path.stem} {model}", partial(_names, f"{path.stem} {model}", model, entry)


def _schedule(name: str, plan: dict, want: dict) -> Iterator[Check]:
    c = configs.paper()
    c.update({"epochs": plan["epochs"], "epoch_steps": plan["iterations_per_epoch"], "batch_size": plan["batch"]})
    c.optim.update({"base_lr": plan["base_lr"], "warmup_epochs": plan["warmup_epochs"]})
    c.teacher.temp_warmup_epochs = plan["warmup_teacher_temp_epochs"]
    ours = Schedules.from_config(c).table(want["iteration"])
    yield compare(name, "scaled lr", scaled_lr(plan["base_lr"], plan["batch"]), plan["scaled_lr"], atol=1e-12)
    for theirs, column in COLUMNS.items():
        if theirs in want:
            yield compare(name, f"{column}, {len(want['iteration'])} steps", ours[column], want[theirs], atol=1e-12)


def _vit(model: str, shapes: dict | None = None) -> ViTConfig | None:
    """The ViT of names such as dinov2_vits14_reg4; None for other names."""
    parts = model.removeprefix("dinov2_").split("_")
    if not parts[0].startswith("vit") or parts[0][3] not in LETTERS:
        return None
    size, patch = LETTERS[parts[0][3]], int(parts[0][4:])
    registers = next((int(p[3:]) for p in parts[1:] if p.startswith("reg") and p[3:]), 4 if "reg" in parts else 0)
    return vit_config(size, patch=patch, registers=registers)


def _groups(name: str, model: str, rows: dict) -> Iterator[Check]:
    vit = _vit(model)
    decay = 1.0 if model.startswith("dinov2_vitg") else 0.9
    if vit is None:
        config = HeadConfig(8, 8, 8, 8, 3)
        shapes = {model: nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Head(config, nnx.Rngs(0)))))}
        write, depth = layout.write_head, 12
    else:
        narrow = dataclasses.replace(vit, dim=8, heads=1, hidden=8, image=2 * vit.patch)  # the width is of no matter
        shapes = {"backbone": nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: ViT(narrow, nnx.Rngs(0)))))}
        write, depth = layout.META.write, vit.depth
    module = next(iter(shapes))
    groups = parameter_groups(shapes, depth, decay, 0.2)[module]

    def column(get) -> dict[str, np.ndarray]:
        filled = jax.tree.map(lambda g, s: np.broadcast_to(get(g), s.shape).astype(np.float64), groups, shapes[module])
        return write(filled)

    columns = [column(lambda g: g.lr), column(lambda g: g.weight_decay), column(lambda g: float(g.last_layer))]
    ours = {k: [c[k].flat[0] for c in columns] for k in columns[0]}
    found = {k.removeprefix(f"{module}."): v for k, v in rows.items()}
    yield compare(name, "parameters covered", sorted(ours) == sorted(found), True)
    yield worst(
        name,
        "multipliers",
        [compare(name, k, ours[k], np.asarray(v, float), atol=1e-12) for k, v in found.items()],
    )


def _names(name: str, model: str, entry: dict) -> Iterator[Check]:
    vit = _vit(model)
    if vit is None:
        return
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: ViT(vit, nnx.Rngs(0)))))
    tensors = layout.META.write(jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), shapes))
    listed = {k: tuple(v) for k, v in entry["keys_and_shapes"].items()}
    ours = {k: v.shape for k, v in tensors.items() if not k.startswith("blocks.") or k.startswith("blocks.0.")}
    yield compare(name, f"{len(ours)} names and shapes", ours == listed, True)
    depth = SIZES[LETTERS[model.removeprefix("dinov2_")[3]]][1]
    yield compare(name, "depth", depth, entry["depth"])
    yield compare(name, "parameters", sum(v.size for v in tensors.values()), entry["n_parameters"])
