"""Names of Hugging Face transformers' ViTModel, in which Phikon and other plain ViTs are shared."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.dinov2 import linear, norm, patch_embed
from histojax.weights.mapping import TensorRule
from histojax.weights.vit_tree import faults_of

LAYER = "encoder.layer.{layer}"


def qkv(leaf: str) -> tuple[str, ...]:
    """Names of the three projections' weights or biases, in the order of our fused one."""
    return tuple(f"{LAYER}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value"))


RULES: tuple[TensorRule, ...] = (
    TensorRule("embeddings.cls_token", "cls_token"),
    TensorRule("embeddings.position_embeddings", "pos_embed"),
    *patch_embed("embeddings.patch_embeddings.projection"),
    *norm(f"{LAYER}.layernorm_before", "blocks/norm1"),
    TensorRule(qkv("weight"), "blocks/attn/qkv/kernel", "linear"),
    TensorRule(qkv("bias"), "blocks/attn/qkv/bias"),
    *linear(f"{LAYER}.attention.output.dense", "blocks/attn/proj"),
    *norm(f"{LAYER}.layernorm_after", "blocks/norm2"),
    *linear(f"{LAYER}.intermediate.dense", "blocks/mlp/fc1"),
    *linear(f"{LAYER}.output.dense", "blocks/mlp/fc2"),
    *norm("layernorm", "norm"),
)


def _recognise(names: Set[str]) -> str:
    layer = "encoder.layer.0"
    marks = {"embeddings.position_embeddings", f"{layer}.layernorm_before.weight", f"{layer}.intermediate.dense.weight"}
    key = f"{layer}.attention.attention.key.bias"  # BEiT's keys have none
    return f"encoder.layer.N with layernorm_before and {key}" if {*marks, key} <= names else ""


HF_VIT = Layout(
    "hf-vit",
    RULES,
    _recognise,
    ignore=("embeddings.mask_token", "pooler.*", "classifier.*", "decoder.*"),
    drop=("mask_token",),
    faults=faults_of,
)
