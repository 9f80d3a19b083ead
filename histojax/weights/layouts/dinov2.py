"""Names of facebookresearch/dinov2 (commit b8931f7): the published backbones, and the heads of its training."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm, patch_embed
from histojax.weights.mapping import TensorRule, from_tree, to_tree
from histojax.weights.report import Report
from histojax.weights.vit_tree import faults_of

BLOCK_RULES: tuple[TensorRule, ...] = (
    *norm("blocks.{layer}.norm1", "blocks/norm1"),
    *linear("blocks.{layer}.attn.qkv", "blocks/attn/qkv"),
    *linear("blocks.{layer}.attn.proj", "blocks/attn/proj"),
    TensorRule("blocks.{layer}.ls1.gamma", "blocks/ls1/gamma", optional=True),
    *norm("blocks.{layer}.norm2", "blocks/norm2"),
    TensorRule("blocks.{layer}.ls2.gamma", "blocks/ls2/gamma", optional=True),
)
MLP_RULES = (
    *linear("blocks.{layer}.mlp.fc1", "blocks/mlp/fc1", optional=True),
    *linear("blocks.{layer}.mlp.fc2", "blocks/mlp/fc2", optional=True),
)
BACKBONE_RULES: tuple[TensorRule, ...] = (
    TensorRule("cls_token", "cls_token"),
    TensorRule("pos_embed", "pos_embed"),
    TensorRule("mask_token", "mask_token", optional=True),
    TensorRule("register_tokens", "register_tokens", optional=True),
    *patch_embed("patch_embed.proj"),
    *BLOCK_RULES,
    *MLP_RULES,
    *linear("blocks.{layer}.mlp.w12", "blocks/mlp/w12", optional=True),
    *linear("blocks.{layer}.mlp.w3", "blocks/mlp/w3", optional=True),
    *norm("norm", "norm"),
)


def _recognise(names: Set[str]) -> str:
    if not {"cls_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"} <= names or "storage_tokens" in names:
        return ""
    signs = [name for name in ("mask_token", "register_tokens", "blocks.0.mlp.w12.weight") if name in names]
    return f"blocks.N.attn.qkv with {', '.join(signs)}" if signs else ""


META = Layout("meta", BACKBONE_RULES, _recognise, ignore=("head.*",), faults=faults_of, spare=("mask_token",))


def head_rules(layers: int) -> tuple[TensorRule, ...]:
    """Rules of a projection head of `layers` linear layers (names by torch's index: mlp.0, mlp.2, mlp.4)."""
    mlps = ["mlp"] if layers == 1 else [f"mlp.{2 * index}" for index in range(layers)]
    rules = [rule for name in mlps for rule in linear(name, name.replace(".", "_"))]
    return (
        *rules,
        TensorRule("last_layer.weight_g", "last_layer/g", "column"),
        TensorRule("last_layer.weight_v", "last_layer/v"),
    )


def read_head(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], Report]:
    """Return (head tree, Report) of `mlp.*` and `last_layer.weight_g / weight_v`."""
    layers = 1 if "mlp.weight" in tensors else sum(f"mlp.{2 * index}.weight" in tensors for index in range(16))
    return to_tree(tensors, head_rules(max(layers, 1)))


def write_head(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the torch tensors of a head tree."""
    return from_tree(tree, head_rules(sum(name.startswith("mlp") for name in tree)))
