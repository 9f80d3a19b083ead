"""AdamW with DINOv2's parameter groups, as multipliers for each leaf of the stacked parameter trees."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


@dataclasses.dataclass(frozen=True)
class Group:
    """How one leaf is updated; a leaf of a tree of groups."""

    lr: np.ndarray  # factor of the learning rate, broadcastable to the leaf; 0 where it is frozen
    weight_decay: float  # 0 or 1
    last_layer: bool  # follows the last-layer schedule


def parameter_groups(shapes: Tree, depth: int, layer_decay: float, patch_embed_lr: float, train: str = "all") -> Tree:
    """A Group for each leaf of a student tree (arrays or shapes), the multipliers of facebookresearch/dinov2.

    In the backbone, block i of n has layer_decay ** (n - i), everything before the blocks layer_decay ** (n + 1),
    the final norm 1; heads have 1. Biases, norms and LayerScale are not decayed; tokens, positions and the
    prototypes' g are. `train` freezes parts of the backbone: "all", "last:K" (trains the last K blocks and the
    final norm) or "norms" (trains norms and biases).
    """
    keep = int(train.partition(":")[2]) if train.startswith("last:") else depth

    def group(path, leaf) -> Group:
        names = [p.key for p in path]
        decayed = not (names[-1] == "bias" or names[-1] == "gamma" or any("norm" in n for n in names))
        if names[0] != "backbone":
            return Group(np.asarray(1.0), float(decayed), "last_layer" in names)
        lr = _backbone_lr(names[1:], len(leaf.shape), depth, layer_decay, patch_embed_lr)
        return Group(lr * _trained(names[1:], len(leaf.shape), depth, train, keep), float(decayed), False)

    return jax.tree_util.tree_map_with_path(group, shapes)


def _backbone_lr(names: list[str], ndim: int, depth: int, decay: float, patch_embed_lr: float) -> np.ndarray:
    if names[0] == "blocks":
        powers = decay ** (depth - np.arange(depth, dtype=np.float64))
        return powers.reshape(-1, *[1] * (ndim - 1))
    if names[0] == "norm":
        return np.asarray(1.0)
    return np.asarray(decay ** (depth + 1) * (patch_embed_lr if names[0] == "patch_embed" else 1.0))


def _trained(names: list[str], ndim: int, depth: int, train: str, keep: int) -> np.ndarray:
    if train == "all":
        return np.asarray(1.0)
    if train == "norms":
        return np.asarray(float("norm" in names[-2] or names[-1] == "bias") if len(names) > 1 else 0.0)
    if names[0] == "blocks":
        return (np.arange(depth) >= depth - keep).astype(np.float64).reshape(-1, *[1] * (ndim - 1))
    return np.asarray(float(names[0] == "norm"))


def freeze(params: Tree, groups: Tree) -> Tree:
    """`params` with no gradient into leaves that are frozen whole, so that their products are not formed."""
    return jax.tree.map(lambda p, g: p if np.any(g.lr) else jax.lax.stop_gradient(p), params, groups)


def clip(gradients: dict[str, Tree], groups: dict[str, Tree], limit: float) -> tuple[dict[str, Tree], dict]:
    """(clipped, norms): each submodule on its own is scaled by min(1, limit / (norm + 1e-6)); 0 means no limit.

    `norms` maps "grad_norm/<submodule>" to the L2 norm before clipping. Frozen entries count as zero.
    """
    clipped, norms = {}, {}
    for name, tree in gradients.items():
        tree = jax.tree.map(lambda x, g: x if np.all(g.lr) else x * (g.lr > 0), tree, groups[name])
        norm = norms[f"grad_norm/{name}"] = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))
        scale = jnp.minimum(1.0, limit / (norm + 1e-6)) if limit else jnp.float32(1)
        clipped[name] = jax.tree.map(lambda x, s=scale: x * s, tree)
    return clipped, norms


def adamw(
    params: Tree,
    gradients: Tree,
    state: optax.ScaleByAdamState,
    groups: Tree,
    schedule: dict,
    b1: float,
    b2: float,
) -> tuple[Tree, optax.ScaleByAdamState]:
    """(params, state) after one AdamW step: decoupled decay, epsilon 1e-8 outside the root, as torch.optim.AdamW.

    While the last layer is frozen its rate is 0, yet its moments go on, as in the reference.
    """
    updates, state = optax.scale_by_adam(b1, b2, eps=1e-8).update(gradients, state)

    def apply(p, u, g: Group):
        lr = schedule["last_layer_lr" if g.last_layer else "lr"] * jnp.asarray(g.lr, jnp.float32)
        decay = schedule["weight_decay"] * g.weight_decay
        return p * (1 - lr * decay) - lr * u

    return jax.tree.map(apply, params, updates, groups), state


def adam_state(params: Tree) -> optax.ScaleByAdamState:
    """Zero moments for `params`."""
    return optax.scale_by_adam().init(params)
