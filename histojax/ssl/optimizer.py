"""AdamW with DINOv2's parameter groups, as multipliers for each leaf of the stacked parameter trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """How one leaf is updated; a leaf of a tree of groups."""

    lr: np.ndarray  # factor of the learning rate, broadcastable to the leaf
    weight_decay: float  # 0 or 1
    rate: str = "lr"  # the scheduled learning rate that it follows: lr, backbone_lr or last_layer_lr

    @property
    def last_layer(self) -> bool:
        """Whether it belongs to the prototypes, which stand still at first."""
        return self.rate == "last_layer_lr"


def parameter_groups(shapes: Tree, depth: int, layer_decay: float, patch_embed_lr: float) -> Tree:
    """A ParameterGroup for each leaf of a student tree (arrays or shapes), the multipliers of facebookresearch/dinov2.

    In a backbone of `depth` blocks, block i has layer_decay ** (depth - i), everything before the blocks
    layer_decay ** (depth + 1), the final norm 1; heads have 1. Where the tree has some blocks only, they are the
    last ones. Biases, norms and LayerScale are not decayed; tokens, positions and the prototypes' g are.
    """

    def group(path, leaf) -> ParameterGroup:
        names = [p.key for p in path]
        decayed = float(not (names[-1] in ("bias", "gamma") or any("norm" in n for n in names)))
        if names[0] != "backbone":
            return ParameterGroup(np.asarray(1.0), decayed, "last_layer_lr" if "last_layer" in names else "lr")
        lr = _backbone_lr(names[1:], leaf.shape, depth, layer_decay, patch_embed_lr)
        return ParameterGroup(lr, decayed, "backbone_lr")

    return jax.tree_util.tree_map_with_path(group, shapes)


def _backbone_lr(
    names: list[str], shape: tuple[int, ...], depth: int, decay: float, patch_embed_lr: float
) -> np.ndarray:
    if names[0] == "blocks":
        powers = decay ** np.arange(shape[0], 0, -1, dtype=np.float64)
        return powers.reshape(-1, *[1] * (len(shape) - 1))
    if names[0] == "norm":
        return np.asarray(1.0)
    return np.asarray(decay ** (depth + 1) * (patch_embed_lr if names[0] == "patch_embed" else 1.0))


def clip(gradients: dict[str, Tree], limit: float) -> tuple[dict[str, Tree], dict[str, jax.Array]]:
    """(clipped, norms): each module on its own is scaled by min(1, limit / (norm + 1e-6)); 0 means no limit.

    `norms` maps "grad_norm/<module>" to the L2 norm before clipping.
    """
    clipped, norms = {}, {}
    for name, tree in gradients.items():
        squares = [jnp.sum(x * x) for x in jax.tree.leaves(tree)]  # a product of flat arrays would gather split ones
        norm = norms[f"grad_norm/{name}"] = jnp.sqrt(sum(squares))
        scale = jnp.minimum(1.0, limit / (norm + 1e-6)) if limit else jnp.float32(1)
        clipped[name] = jax.tree.map(lambda x, s=scale: x * s, tree)
    return clipped, norms


def adamw(
    groups: Tree, schedule: Mapping[str, Any], b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """AdamW as torch has it: decoupled decay, epsilon 1e-8 outside the root (Loshchilov & Hutter 2019).

    Args:
        groups: a ParameterGroup for each leaf of the parameters.
        schedule: this step's values of "weight_decay" and of every rate that a group follows.
        b1, b2: decay of the moments.

    While a rate is 0 the leaves that follow it stand still, yet their moments go on, as in the reference.
    """
    moments = optax.scale_by_adam(b1, b2, eps=1e-8)

    def change(direction: jax.Array, p: jax.Array, group: ParameterGroup) -> jax.Array:
        lr = schedule[group.rate] * jnp.asarray(group.lr, jnp.float32)
        return (-lr * (direction + schedule["weight_decay"] * group.weight_decay * p)).astype(p.dtype)

    def update(gradients: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        if params is None:
            raise ValueError("adamw: update needs the parameters, which it decays")
        directions, state = moments.update(gradients, state)
        return jax.tree.map(change, directions, params, groups), state

    return optax.GradientTransformation(moments.init, update)
