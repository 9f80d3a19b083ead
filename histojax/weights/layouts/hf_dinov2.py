"""Names of Hugging Face transformers' Dinov2Model and Dinov2WithRegistersModel."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.dinov2 import linear, norm
from histojax.weights.layouts.hf_vit import LAYER, qkv
from histojax.weights.mapping import Rule
from histojax.weights.vit_tree import faults_of

RULES: tuple[Rule, ...] = (
    Rule("embeddings.cls_token", "cls_token"),
    Rule("embeddings.position_embeddings", "pos_embed"),
    Rule("embeddings.mask_token", "mask_token", optional=True),
    Rule("embeddings.register_tokens", "register_tokens", optional=True),
    Rule("embeddings.patch_embeddings.projection.weight", "patch_embed/kernel", "patch"),
    Rule("embeddings.patch_embeddings.projection.bias", "patch_embed/bias"),
    *norm(f"{LAYER}.norm1", "blocks/norm1"),
    Rule(qkv("weight"), "blocks/attn/qkv/kernel", "linear"),
    Rule(qkv("bias"), "blocks/attn/qkv/bias"),
    *linear(f"{LAYER}.attention.output.dense", "blocks/attn/proj"),
    Rule(f"{LAYER}.layer_scale1.lambda1", "blocks/ls1/gamma"),
    *norm(f"{LAYER}.norm2", "blocks/norm2"),
    *linear(f"{LAYER}.mlp.fc1", "blocks/mlp/fc1", optional=True),
    *linear(f"{LAYER}.mlp.fc2", "blocks/mlp/fc2", optional=True),
    *linear(f"{LAYER}.mlp.weights_in", "blocks/mlp/w12", optional=True),
    *linear(f"{LAYER}.mlp.weights_out", "blocks/mlp/w3", optional=True),
    Rule(f"{LAYER}.layer_scale2.lambda1", "blocks/ls2/gamma"),
    *norm("layernorm", "norm"),
)


def _recognise(names: Set[str]) -> str:
    marks = {"embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.norm1.weight"}
    return "encoder.layer.N with layer_scale1.lambda1" if marks <= names else ""


HF_DINOV2 = Layout(
    "hf", RULES, _recognise, ignore=("pooler.*", "classifier.*"), faults=faults_of, spare=("mask_token",)
)
