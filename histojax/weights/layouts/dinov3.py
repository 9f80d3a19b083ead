"""Names of DINOv3 in Hugging Face transformers, in facebookresearch/dinov3 and in timm.

Keys have no bias, which is a zero in ours. Meta's files have a bias for them and, beside it, a mask that is zero
there (`qkv.bias_mask`); timm also has variants without any bias.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import numpy as np

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm, patch_embed
from histojax.weights.mapping import Kind, TensorRule
from histojax.weights.trees import is_ghost

_LAYER, _BLOCK = "layer.{layer}", "blocks.{layer}"
_QUERY, _KEY, _VALUE = (f"{_LAYER}.attention.{part}_proj" for part in "qkv")
_PARTS = ("gate", "up", "down")


def _feed(plain: tuple[str, str], gated: tuple[str, str, str], *, is_gated: bool) -> tuple[TensorRule, ...]:
    """Rules of the feed-forward layers, by their names in the file."""
    names, parts = (gated, _PARTS) if is_gated else (plain, ("fc1", "fc2"))
    return tuple(rule for name, part in zip(names, parts) for rule in linear(name, f"blocks/mlp/{part}"))


def _hf_rules(gated: bool) -> tuple[TensorRule, ...]:
    up, down, gate = (f"{_LAYER}.mlp.{part}_proj" for part in ("up", "down", "gate"))
    return (
        TensorRule("embeddings.cls_token", "cls_token"),
        TensorRule("embeddings.mask_token", "mask_token", Kind(lambda a: a[0], lambda a: a[None]), optional=True),
        TensorRule("embeddings.register_tokens", "register_tokens"),
        *patch_embed("embeddings.patch_embeddings"),
        *norm(f"{_LAYER}.norm1", "blocks/norm1"),
        TensorRule((f"{_QUERY}.weight", f"{_KEY}.weight", f"{_VALUE}.weight"), "blocks/attn/qkv/kernel", "linear"),
        TensorRule((f"{_QUERY}.bias", "0", f"{_VALUE}.bias"), "blocks/attn/qkv/bias"),
        *linear(f"{_LAYER}.attention.o_proj", "blocks/attn/proj"),
        TensorRule(f"{_LAYER}.layer_scale1.lambda1", "blocks/ls1/gamma"),
        *norm(f"{_LAYER}.norm2", "blocks/norm2"),
        TensorRule(f"{_LAYER}.layer_scale2.lambda1", "blocks/ls2/gamma"),
        *norm("norm", "norm"),
        *_feed((up, down), (gate, up, down), is_gated=gated),
    )


def _block_rules(registers: str, scales: tuple[str, str], bias: tuple[TensorRule, ...]) -> tuple[TensorRule, ...]:
    """What Meta's and timm's names have in common."""
    return (
        TensorRule("cls_token", "cls_token"),
        TensorRule(registers, "register_tokens"),
        *patch_embed("patch_embed.proj"),
        *norm(f"{_BLOCK}.norm1", "blocks/norm1"),
        TensorRule(f"{_BLOCK}.attn.qkv.weight", "blocks/attn/qkv/kernel", "linear"),
        *bias,
        *linear(f"{_BLOCK}.attn.proj", "blocks/attn/proj"),
        TensorRule(f"{_BLOCK}.{scales[0]}", "blocks/ls1/gamma"),
        *norm(f"{_BLOCK}.norm2", "blocks/norm2"),
        TensorRule(f"{_BLOCK}.{scales[1]}", "blocks/ls2/gamma"),
        *norm("norm", "norm"),
    )


def _meta_rules(gated: bool) -> tuple[TensorRule, ...]:
    bias = (
        TensorRule(f"{_BLOCK}.attn.qkv.bias", "blocks/attn/qkv/bias"),
        TensorRule(f"{_BLOCK}.attn.qkv.bias_mask", "blocks/attn/qkv/bias_mask", optional=True),
    )
    names = [f"{_BLOCK}.mlp.{part}" for part in ("fc1", "fc2", "w1", "w2", "w3")]
    return (
        *_block_rules("storage_tokens", ("ls1.gamma", "ls2.gamma"), bias),
        TensorRule("mask_token", "mask_token", optional=True),
        *_feed((names[0], names[1]), (names[2], names[3], names[4]), is_gated=gated),
    )


def _timm_rules(gated: bool) -> tuple[TensorRule, ...]:
    bias = (TensorRule((f"{_BLOCK}.attn.q_bias", "0", f"{_BLOCK}.attn.v_bias"), "blocks/attn/qkv/bias", optional=True),)
    first, gate, up, second = (f"{_BLOCK}.mlp.{part}" for part in ("fc1", "fc1_g", "fc1_x", "fc2"))
    return (
        *_block_rules("reg_token", ("gamma_1", "gamma_2"), bias),
        *_feed((first, second), (gate, up, second), is_gated=gated),
    )


def _mask_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """Multiply the mask into the biases (by choice, not product: the biases under a zero may be NaN)."""
    qkv = tree.get("blocks", {}).get("attn", {}).get("qkv", {})
    if not {"bias", "bias_mask"} <= set(qkv):
        return tree
    bias, mask = qkv["bias"], qkv["bias_mask"]
    if not is_ghost(bias):
        bias = np.where(mask == 0, np.zeros_like(bias), bias)
    return _with_qkv(tree, {"kernel": qkv["kernel"], "bias": bias})


def _with_zeros(tree: dict[str, Any]) -> dict[str, Any]:
    """Zeros where a variant has no biases."""
    qkv = tree.get("blocks", {}).get("attn", {}).get("qkv", {})
    if "kernel" not in qkv or "bias" in qkv:
        return tree
    depth, _, width = qkv["kernel"].shape
    return _with_qkv(tree, {**qkv, "bias": np.zeros((depth, width), qkv["kernel"].dtype)})


def _with_qkv(tree: dict[str, Any], qkv: dict[str, Any]) -> dict[str, Any]:
    return tree | {"blocks": tree["blocks"] | {"attn": tree["blocks"]["attn"] | {"qkv": qkv}}}


def _recognise(gate: str, gated: bool, *marks: str) -> Callable[[Set[str]], str]:
    def recognise(names: Set[str]) -> str:
        if not set(marks) <= names or "pos_embed" in names or (gate in names) is not gated:
            return ""
        return f"{', '.join(marks)}; {'with' if gated else 'without'} {gate}"

    return recognise


def _layouts(gated: bool) -> tuple[Layout, ...]:
    end = "-gated" if gated else ""
    return (
        Layout(
            f"hf{end}",
            _hf_rules(gated),
            _recognise(
                "layer.0.mlp.gate_proj.weight", gated, "embeddings.register_tokens", "layer.0.attention.q_proj.weight"
            ),
            family="dinov3",
            spare=("mask_token",),
        ),
        Layout(
            f"meta{end}",
            _meta_rules(gated),
            _recognise("blocks.0.mlp.w1.weight", gated, "storage_tokens", "blocks.0.attn.qkv.weight"),
            ignore=("rope_embed.periods", "local_cls_norm.*"),  # fixed frequencies; a norm for local crops (7B)
            after_read=_mask_keys,
            family="dinov3",
            spare=("mask_token",),
        ),
        Layout(
            f"timm{end}",
            _timm_rules(gated),
            _recognise("blocks.0.mlp.fc1_g.weight", gated, "reg_token", "blocks.0.attn.qkv.weight", "blocks.0.gamma_1"),
            ignore=("head.*",),
            drop=("mask_token",),
            after_read=_with_zeros,
            family="dinov3",
        ),
    )


LAYOUTS = (*_layouts(False), *_layouts(True))
