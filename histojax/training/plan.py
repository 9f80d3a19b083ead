"""The plan that a run prints before its first step: data, steps, parameters, memory, licences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax.config import last_step
from histojax.evaluation import online
from histojax.evaluation.evaluators import PARTS
from histojax.models.layers import cudnn_fault
from histojax.ssl.choice import ALL
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import parameter_count
from histojax.training import choice
from histojax.training.start import Start, parameter_shapes
from histojax.weights.licence import chain_of_card
from histojax.weights.reading_size import enlarged

Tree = Any


def plan(config: ConfigDict, recipe: Recipe, source: Any, tiles: online.EvalTiles, start: Start) -> str:
    """What is about to happen, a line a subject."""
    state = jax.eval_shape(recipe.start, parameter_shapes(recipe))
    sizes = {name: parameter_count(tree) for name, tree in parameter_shapes(recipe).items()}
    trained = parameter_count(state.networks["student"].get("backbone", {}))
    heads = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in sizes.items() if name != "backbone")
    kind = f"{source.facts.group_kind or 'group'}s"
    groups = "" if source.groups is None else f", {len(source.groups.used())} {kind}"
    devices, v, c, steps = jax.devices(), recipe.vit, config.crops, last_step(config)
    passes = steps * config.batch_size / len(source)
    stored = config.mesh.batch_shards == 0 and recipe.shards != len(devices)
    rows = {
        "encoder": f"{config.model.size}/{v.patch}, {sizes['backbone'] / 1e6:.1f}M parameters; {heads}",
        "trained": "" if recipe.train == ALL else f"{config.model.train}: {trained:,} parameters, and the heads",
        "start": start.report,
        "licence": _terms(start),
        "tiles": f"{config.data.train}: {len(source)} tiles, {_classes(source)}{groups}",
        "found": source.facts.found,
        "crops": f"2 x {c.global_px} px + {c.local_crops} x {c.local_px} px from {config.data.tile_px} px",
        "positions": _positions(config, recipe),
        "steps": f"{steps} of {config.batch_size} images ({passes:.1f} passes), schedules over "
        f"{config.epochs * config.epoch_steps}{_too_late(config)}",
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{np.dtype(v.dtype).name} matmuls, {_attention(recipe)}state {state_bytes(state) / 2**30:.2f} GiB"
        + (" over all devices" if config.mesh.fsdp else "")
        + (f"; a batch keeps the {recipe.shards} shards with which the run began" if stored else ""),
        "evaluation": f"every {config.eval.every} steps on {parts_in_words(tiles)}; {tiles.how}",
        "best": choice.in_words(config, tiles),
    }
    return "\n".join(f"{name:11s} {value}" for name, value in rows.items() if value)


def _too_late(config: ConfigDict) -> str:
    late = [step for step in config.export.steps if step > last_step(config)]
    return f"; none is exported at {', '.join(map(str, late))}, after the end (export.steps)" if late else ""


def _attention(recipe: Recipe) -> str:
    """How a GPU computes attention, and why not by cuDNN where that was to be expected."""
    v = recipe.vit
    if recipe.platform != "gpu":
        return ""
    fault = cudnn_fault(v.dim // v.heads) if v.attention == "xla" and v.dtype == jnp.bfloat16 else None
    return f"attention by {v.attention}{f' (cuDNN: {fault})' if fault else ''}, "


def _positions(config: ConfigDict, recipe: Recipe) -> str:
    """Which position grid there is, where crops or evaluations take it at another size; "" where neither does."""
    v, crop, read = recipe.vit, config.crops.global_px, config.eval.image_px
    if crop == read == v.image:
        return ""
    words = [f"grid {v.grid} x {v.grid}, of {v.image} px; crops take it at {crop} px, evaluations at {read} px"]
    words += [] if recipe.train == ALL else [f"model.train={config.model.train} leaves it alone"]
    return "; ".join(filter(None, [*words, enlarged(v.grid, read // v.patch, v.patch)]))


def parts_in_words(tiles: online.EvalTiles) -> str:
    """E.g. "fit 420 tiles of 3 groups, validation 180 tiles of 1 group, test 600 tiles of 4 groups"."""
    if not tiles.labelled:
        return f"{len(tiles.labels)} tiles"
    return ", ".join(f"{part} {tiles.in_words(part)}" for part in filter(tiles.count, PARTS))


def _terms(start: Start) -> str:
    """What the licences of the starting weights allow; "" for a random start."""
    terms = [one.terms() for one in chain_of_card({"starting_weights": start.sources})]
    return "; ".join(dict.fromkeys(terms or [row["licence"] for row in start.sources]))


def _classes(source: Any) -> str:
    if len(source.classes) < 2:
        return "no labels" + (f" (one class only, {source.classes[0]})" if source.classes else " (no two classes)")
    without = int((source.labels < 0).sum())
    return f"{len(source.classes)} classes" + (f" ({without} tiles of none)" if without else "")


def state_bytes(tree: Tree) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
