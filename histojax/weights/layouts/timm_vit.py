"""Names of timm's VisionTransformer, in which DINOv2 and most pathology ViTs are shared.

Differences to Meta's names: `reg_token`; no mask token; SwiGLU as `mlp.fc1` (twice as wide as what fc2 reads) and
`mlp.fc2`. Register models (`no_embed_class`) have no class row in `pos_embed`: timm adds that row to `cls_token`
when it imports Meta's file (`checkpoint_filter_fn`). Others (Virchow2) have rows for class, registers and patches.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from histojax.weights.layouts import Layout
from histojax.weights.layouts.dinov2 import BLOCK_RULES, MLP_RULES
from histojax.weights.layouts.parts import norm, patch_embed
from histojax.weights.mapping import TensorRule
from histojax.weights.vit_tree import faults_of, packed, positions_of, unpacked, without_class_row

RULES: tuple[TensorRule, ...] = (
    TensorRule("cls_token", "cls_token"),
    TensorRule("pos_embed", "pos_embed"),
    TensorRule("reg_token", "register_tokens", optional=True),
    *patch_embed("patch_embed.proj"),
    *BLOCK_RULES,
    *MLP_RULES,
    *norm("norm", "norm"),
)


def _recognise(names: Set[str]) -> str:
    if not {"cls_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.weight"} <= names:
        return ""
    if "storage_tokens" in names:  # DINOv3
        return ""
    if "reg_token" in names:
        return "blocks.N.attn.qkv with reg_token"
    meta = {"mask_token", "register_tokens"} & names
    return "" if meta else "blocks.N.attn.qkv without mask_token"


def _before_write(tree: dict[str, Any]) -> dict[str, Any]:
    """Names of timm's modules, and for register models the class position inside the class token."""
    tree = packed(tree)
    return without_class_row(tree) if "register_tokens" in tree and positions_of(tree) == "cls" else tree


TIMM = Layout(
    "timm",
    RULES,
    _recognise,
    ignore=("head.*", "mask_token"),
    drop=("mask_token",),
    after_read=unpacked,
    before_write=_before_write,
    faults=faults_of,
)
