"""Low-rank pairs beside the linear layers of transformer blocks (Hu et al. 2021, arXiv 2106.09685).

A layer with kernel W (in, out) and a pair A (in, R), B (R, out) computes x W + (x A) B. B starts at zero, so a new
pair changes nothing. In parameter trees a pair is two leaves beside the kernel, "lora_a" and "lora_b".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Tree = Any
PAIR = ("lora_a", "lora_b")


def add_pairs(blocks: Tree, rank: int, key: jax.Array) -> Tree:
    """Stacked blocks with a new pair of `rank` beside every kernel (L, in, out): A uniform as torch starts a linear
    layer, B zero."""
    added = {}
    for place, (name, part) in enumerate(sorted(blocks.items())):
        if not isinstance(part, dict):
            added[name] = part
        elif "kernel" in part:
            depth, width, out = part["kernel"].shape
            a = jax.random.uniform(jax.random.fold_in(key, place), (depth, width, rank), jnp.float32, -1.0, 1.0)
            added[name] = {**part, "lora_a": a * width**-0.5, "lora_b": jnp.zeros((depth, rank, out), jnp.float32)}
        else:
            added[name] = add_pairs(part, rank, jax.random.fold_in(key, place))
    return added


def absorb_pairs(blocks: Tree) -> Tree:
    """Stacked blocks in which each pair is added to its kernel, W + A B; numpy or jax arrays."""
    if not isinstance(blocks, dict):
        return blocks
    if "lora_a" in blocks:
        rest = {name: leaf for name, leaf in blocks.items() if name not in PAIR}
        return {**rest, "kernel": blocks["kernel"] + blocks["lora_a"] @ blocks["lora_b"]}
    return {name: absorb_pairs(part) for name, part in blocks.items()}


def has_pairs(blocks: Tree) -> bool:
    """Whether any layer of the blocks has a pair."""
    return isinstance(blocks, dict) and ("lora_a" in blocks or any(has_pairs(part) for part in blocks.values()))


def declare_pairs(blocks: nnx.Module) -> None:
    """Makes room for a pair in each linear layer of the module, so that a tree with pairs can be merged into it."""
    for _, layer in nnx.iter_modules(blocks):
        if isinstance(layer, nnx.Linear):
            for name in PAIR:
                setattr(layer, name, nnx.Param(jnp.zeros(())))
