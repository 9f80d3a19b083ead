"""Names of Hugging Face transformers: its ViTModel (Phikon and other plain ViTs), and Dinov2Model with or without
registers."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm, patch_embed
from histojax.weights.mapping import TensorRule
from histojax.weights.vit_tree import faults_of

_LAYER = "encoder.layer.{layer}"


def _qkv(leaf: str) -> tuple[str, ...]:
    """Names of the three projections' weights or biases, in the order of our fused one."""
    return tuple(f"{_LAYER}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value"))


_COMMON: tuple[TensorRule, ...] = (
    TensorRule("embeddings.cls_token", "cls_token"),
    TensorRule("embeddings.position_embeddings", "pos_embed"),
    *patch_embed("embeddings.patch_embeddings.projection"),
    TensorRule(_qkv("weight"), "blocks/attn/qkv/kernel", "linear"),
    TensorRule(_qkv("bias"), "blocks/attn/qkv/bias"),
    *linear(f"{_LAYER}.attention.output.dense", "blocks/attn/proj"),
    *norm("layernorm", "norm"),
)
_VIT = (
    *_COMMON,
    *norm(f"{_LAYER}.layernorm_before", "blocks/norm1"),
    *norm(f"{_LAYER}.layernorm_after", "blocks/norm2"),
    *linear(f"{_LAYER}.intermediate.dense", "blocks/mlp/fc1"),
    *linear(f"{_LAYER}.output.dense", "blocks/mlp/fc2"),
)
_DINOV2 = (
    *_COMMON,
    TensorRule("embeddings.mask_token", "mask_token", optional=True),
    TensorRule("embeddings.register_tokens", "register_tokens", optional=True),
    *norm(f"{_LAYER}.norm1", "blocks/norm1"),
    TensorRule(f"{_LAYER}.layer_scale1.lambda1", "blocks/ls1/gamma"),
    *norm(f"{_LAYER}.norm2", "blocks/norm2"),
    TensorRule(f"{_LAYER}.layer_scale2.lambda1", "blocks/ls2/gamma"),
    *linear(f"{_LAYER}.mlp.fc1", "blocks/mlp/fc1", optional=True),
    *linear(f"{_LAYER}.mlp.fc2", "blocks/mlp/fc2", optional=True),
    *linear(f"{_LAYER}.mlp.weights_in", "blocks/mlp/w12", optional=True),
    *linear(f"{_LAYER}.mlp.weights_out", "blocks/mlp/w3", optional=True),
)


def _is_vit(names: Set[str]) -> str:
    layer = "encoder.layer.0"
    marks = {"embeddings.position_embeddings", f"{layer}.layernorm_before.weight", f"{layer}.intermediate.dense.weight"}
    key = f"{layer}.attention.attention.key.bias"  # BEiT's keys have none
    return f"encoder.layer.N with layernorm_before and {key}" if {*marks, key} <= names else ""


def _is_dinov2(names: Set[str]) -> str:
    marks = {"embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.norm1.weight"}
    return "encoder.layer.N with layer_scale1.lambda1" if marks <= names else ""


HF_VIT = Layout(
    "hf-vit",
    _VIT,
    _is_vit,
    ignore=("embeddings.mask_token", "pooler.*", "classifier.*", "decoder.*"),
    drop=("mask_token",),
    faults=faults_of,
)
HF_DINOV2 = Layout(
    "hf", _DINOV2, _is_dinov2, ignore=("pooler.*", "classifier.*"), faults=faults_of, spare=("mask_token",)
)
