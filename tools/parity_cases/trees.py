"""From official tensor names to the parameter trees and configurations of histojax."""

from __future__ import annotations

from typing import Any

import numpy as np

from histojax.models.vit import ViTConfig
from histojax.weights.layouts import dinov2 as layout


def backbone_tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The backbone's tree; any tensor left over or missing is an error."""
    return _strict(layout.META.read(tensors))


def module_trees(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"backbone": ..., "dino_head": ..., ["ibot_head": ...]} from names with these prefixes."""
    modules: dict[str, dict] = {}
    for name, value in tensors.items():
        module, _, rest = name.partition(".")
        modules.setdefault(module, {})[rest] = value
    return {m: backbone_tree(t) if m == "backbone" else head_tree(t) for m, t in modules.items()}


def module_tensors(trees: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `module_trees`."""
    out = {}
    for module, tree in trees.items():
        write = layout.META.write if module == "backbone" else layout.write_head
        out.update({f"{module}.{k}": v for k, v in write(tree).items()})
    return out


def vit_of(tensors: dict[str, np.ndarray], heads: int, antialias: bool) -> ViTConfig:
    """The ViT that tensors by official names belong to."""
    dim, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blocks."))
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    hidden = tensors["blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc2.weight"].shape[1]
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    return ViTConfig(
        dim,
        depth,
        heads,
        patch=patch,
        image=grid * patch,
        registers=registers,
        ffn="swiglu" if swiglu else "mlp",
        hidden=hidden,
        interpolation="antialias" if antialias else "offset",
    )


def head_tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """A head's tree; any tensor left over or missing is an error."""
    return _strict(layout.read_head(tensors))


def _strict(read) -> dict[str, Any]:
    tree, report = read
    report.raise_if_bad()
    if report.unused:
        raise ValueError(f"tensors that no rule reads: {report.unused}")
    return tree
