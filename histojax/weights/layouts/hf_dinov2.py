"""Names of Hugging Face transformers' Dinov2Model and Dinov2WithRegistersModel."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.dinov2 import linear, norm
from histojax.weights.layouts.hf_vit import LAYER, qkv
from histojax.weights.mapping import TensorRule
from histojax.weights.vit_tree import faults_of

RULES: tuple[TensorRule, ...] = (
    TensorRule("embeddings.cls_token", "cls_token"),
    TensorRule("embeddings.position_embeddings", "pos_embed"),
    TensorRule("embeddings.mask_token", "mask_token", optional=True),
    TensorRule("embeddings.register_tokens", "register_tokens", optional=True),
    TensorRule("embeddings.patch_embeddings.projection.weight", "patch_embed/kernel", "patch"),
    TensorRule("embeddings.patch_embeddings.projection.bias", "patch_embed/bias"),
    *norm(f"{LAYER}.norm1", "blocks/norm1"),
    TensorRule(qkv("weight"), "blocks/attn/qkv/kernel", "linear"),
    TensorRule(qkv("bias"), "blocks/attn/qkv/bias"),
    *linear(f"{LAYER}.attention.output.dense", "blocks/attn/proj"),
    TensorRule(f"{LAYER}.layer_scale1.lambda1", "blocks/ls1/gamma"),
    *norm(f"{LAYER}.norm2", "blocks/norm2"),
    *linear(f"{LAYER}.mlp.fc1", "blocks/mlp/fc1", optional=True),
    *linear(f"{LAYER}.mlp.fc2", "blocks/mlp/fc2", optional=True),
    *linear(f"{LAYER}.mlp.weights_in", "blocks/mlp/w12", optional=True),
    *linear(f"{LAYER}.mlp.weights_out", "blocks/mlp/w3", optional=True),
    TensorRule(f"{LAYER}.layer_scale2.lambda1", "blocks/ls2/gamma"),
    *norm("layernorm", "norm"),
)


def _recognise(names: Set[str]) -> str:
    marks = {"embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.norm1.weight"}
    return "encoder.layer.N with layer_scale1.lambda1" if marks <= names else ""


HF_DINOV2 = Layout(
    "hf", RULES, _recognise, ignore=("pooler.*", "classifier.*"), faults=faults_of, spare=("mask_token",)
)
