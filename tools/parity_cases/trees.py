"""From official tensor names to the parameter trees and configurations of histojax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.models.vit import ViTConfig
from histojax.weights.layouts import dinov2 as layout

RESAMPLING = {  # (interpolate_antialias, interpolate_offset): a mode of common.bicubic
    (False, 0.1): "offset",
    (False, 0.0): "exact",
    (True, 0.0): "antialias",
    (True, 0.1): "antialias-offset",
}


def backbone_tree(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The backbone's tree; any tensor left over or missing is an error."""
    return _strict(layout.META.read(tensors))


def module_trees(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"backbone": ..., "dino_head": ..., ["ibot_head": ...]} from names with these prefixes."""
    modules: dict[str, dict] = {}
    for name, value in tensors.items():
        module, _, rest = name.partition(".")
        modules.setdefault(module, {})[rest] = value
    return {m: backbone_tree(t) if m == "backbone" else head_tree(t) for m, t in modules.items()}


def module_tensors(trees: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `module_trees`."""
    out = {}
    for module, tree in trees.items():
        write = layout.META.write if module == "backbone" else layout.write_head
        out.update({f"{module}.{k}": v for k, v in write(tree).items()})
    return out


def resampling(settings: Mapping[str, Any]) -> str:
    """The mode of common.bicubic that `interpolate_antialias` and `interpolate_offset` of the reference mean."""
    asked = settings["interpolate_antialias"], settings["interpolate_offset"]
    if asked not in RESAMPLING:
        raise ValueError(f"no resampling of positions for interpolate_antialias, interpolate_offset = {asked}")
    return RESAMPLING[asked]


def vit_of(tensors: Mapping[str, np.ndarray], heads: int, mode: str) -> ViTConfig:
    """The ViT that tensors by official names belong to; `mode` resamples its positions."""
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
        layerscale=1.0 if "blocks.0.ls1.gamma" in tensors else None,
        interpolation=mode,
        mask_token="mask_token" in tensors,
    )


def head_tree(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A head's tree; any tensor left over or missing is an error."""
    return _strict(layout.read_head(tensors))


def _strict(read) -> dict[str, Any]:
    tree, report = read
    report.raise_if_bad()
    if report.unused:
        raise ValueError(f"tensors that no rule reads: {report.unused}")
    return tree
