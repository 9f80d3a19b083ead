"""Names of BEiT in microsoft/unilm (and timm), and of BEiT and data2vec-vision in Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm, patch_embed
from histojax.weights.mapping import TensorRule

_TABLE = "relative_position_bias_table"
_BLOCK = "blocks.{layer}"

UNILM_RULES: tuple[TensorRule, ...] = (
    TensorRule("cls_token", "cls_token"),
    TensorRule("pos_embed", "pos_embed", optional=True),
    *patch_embed("patch_embed.proj"),
    TensorRule(f"rel_pos_bias.{_TABLE}", "shared_rel_pos", optional=True),
    TensorRule(f"{_BLOCK}.attn.{_TABLE}", "layer_rel_pos", optional=True),
    *norm(f"{_BLOCK}.norm1", "blocks/norm1"),
    TensorRule(f"{_BLOCK}.attn.qkv.weight", "blocks/attn/qkv/kernel", "linear"),
    TensorRule((f"{_BLOCK}.attn.q_bias", "0", f"{_BLOCK}.attn.v_bias"), "blocks/attn/qkv/bias"),
    *linear(f"{_BLOCK}.attn.proj", "blocks/attn/proj"),
    TensorRule(f"{_BLOCK}.gamma_1", "blocks/ls1/gamma", optional=True),
    *norm(f"{_BLOCK}.norm2", "blocks/norm2"),
    *linear(f"{_BLOCK}.mlp.fc1", "blocks/mlp/fc1"),
    *linear(f"{_BLOCK}.mlp.fc2", "blocks/mlp/fc2"),
    TensorRule(f"{_BLOCK}.gamma_2", "blocks/ls2/gamma", optional=True),
    *norm("norm", "norm", optional=True),
    *norm("fc_norm", "fc_norm", optional=True),
)


_LAYER = "encoder.layer.{layer}"
_ATTENTION = f"{_LAYER}.attention.attention"
_QUERY, _KEY, _VALUE = (f"{_ATTENTION}.{part}" for part in ("query", "key", "value"))

HF_RULES: tuple[TensorRule, ...] = (
    TensorRule("embeddings.cls_token", "cls_token"),
    TensorRule("embeddings.position_embeddings", "pos_embed", optional=True),
    *patch_embed("embeddings.patch_embeddings.projection"),
    TensorRule(f"encoder.relative_position_bias.{_TABLE}", "shared_rel_pos", optional=True),
    TensorRule(f"{_ATTENTION}.relative_position_bias.{_TABLE}", "layer_rel_pos", optional=True),
    *norm(f"{_LAYER}.layernorm_before", "blocks/norm1"),
    TensorRule((f"{_QUERY}.weight", f"{_KEY}.weight", f"{_VALUE}.weight"), "blocks/attn/qkv/kernel", "linear"),
    TensorRule((f"{_QUERY}.bias", "0", f"{_VALUE}.bias"), "blocks/attn/qkv/bias"),
    *linear(f"{_LAYER}.attention.output.dense", "blocks/attn/proj"),
    TensorRule(f"{_LAYER}.lambda_1", "blocks/ls1/gamma", optional=True),
    *norm(f"{_LAYER}.layernorm_after", "blocks/norm2"),
    *linear(f"{_LAYER}.intermediate.dense", "blocks/mlp/fc1"),
    *linear(f"{_LAYER}.output.dense", "blocks/mlp/fc2"),
    TensorRule(f"{_LAYER}.lambda_2", "blocks/ls2/gamma", optional=True),
    *norm("layernorm", "norm", optional=True),
    *norm("pooler.layernorm", "fc_norm", optional=True),
)


def _unilm(names: Set[str]) -> str:
    marks = {"blocks.0.attn.q_bias", "blocks.0.mlp.fc1.weight"}
    return "blocks.N.attn.q_bias" if marks <= names and "reg_token" not in names else ""  # else timm's DINOv3


def _hf(names: Set[str]) -> str:
    mark = "encoder.layer.0.attention.attention.query.bias"
    known = {mark, "encoder.layer.0.layernorm_before.weight"} <= names
    return f"{mark} without a key bias" if known and mark.replace("query", "key") not in names else ""


def _faults(tree: Mapping[str, Any]) -> list[str]:
    blocks, faults = tree.get("blocks", {}), []
    if ("ls1" in blocks) != ("ls2" in blocks):
        faults.append("only one of the two LayerScales (gamma_1, gamma_2) is there")
    if not {"norm", "fc_norm"} & set(tree):
        faults.append("there is no final norm, neither on the tokens nor on their mean")
    for name in {"norm", "fc_norm"} & set(tree):
        if set(tree[name]) != {"scale", "bias"}:
            faults.append(f"{name} has a {' and '.join(tree[name])} only")
    return faults


_IGNORE = ("*relative_position_index", "classifier.*", "head.*", "lm_head.*")
UNILM = Layout("unilm", UNILM_RULES, _unilm, ignore=("mask_token", *_IGNORE), family="beit", faults=_faults)
HF = Layout("hf", HF_RULES, _hf, ignore=("embeddings.mask_token", *_IGNORE), family="beit", faults=_faults)
LAYOUTS = (UNILM, HF)
