"""Names of SAM's image encoder: the files of segment-anything, of Hugging Face transformers and of timm."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm, patch_embed
from histojax.weights.mapping import TensorRule


def _rules(
    prefix: str,
    *,
    patches: str = "patch_embed.proj",
    layer: str = "blocks",
    norms: tuple[str, str] = ("norm1", "norm2"),
    mlp: tuple[str, str] = ("lin1", "lin2"),
    neck: tuple[str, ...] = ("neck.0", "neck.1", "neck.2", "neck.3"),
) -> tuple[TensorRule, ...]:
    block, table = f"{prefix}{layer}.{{layer}}", f"{prefix}{layer}.{{block}}.attn.rel_pos_"
    return (
        TensorRule(f"{prefix}pos_embed", "pos_embed"),
        *patch_embed(f"{prefix}{patches}"),
        *norm(f"{block}.{norms[0]}", "blocks/norm1"),
        *linear(f"{block}.attn.qkv", "blocks/attn/qkv"),
        *linear(f"{block}.attn.proj", "blocks/attn/proj"),
        *norm(f"{block}.{norms[1]}", "blocks/norm2"),
        *linear(f"{block}.mlp.{mlp[0]}", "blocks/mlp/fc1"),
        *linear(f"{block}.mlp.{mlp[1]}", "blocks/mlp/fc2"),
        # not stacked: global blocks have longer tables than windowed ones
        TensorRule(f"{table}h", "rel_pos/block{block}/h"),
        TensorRule(f"{table}w", "rel_pos/block{block}/w"),
        TensorRule(f"{prefix}{neck[0]}.weight", "neck/conv1/kernel", "conv"),
        *norm(f"{prefix}{neck[1]}", "neck/norm1"),
        TensorRule(f"{prefix}{neck[2]}.weight", "neck/conv2/kernel", "conv"),
        *norm(f"{prefix}{neck[3]}", "neck/norm2"),
    )


def _has(*marks: str):
    def recognise(names: Set[str]) -> str:
        return " and ".join(marks) if set(marks) <= names else ""

    return recognise


META = Layout(
    "meta",
    _rules("image_encoder."),
    _has("image_encoder.blocks.0.attn.rel_pos_h"),
    ignore=("prompt_encoder.*", "mask_decoder.*", "pixel_mean", "pixel_std"),
    family="sam",
)
HF = Layout(
    "hf",
    _rules(
        "vision_encoder.",
        patches="patch_embed.projection",
        layer="layers",
        norms=("layer_norm1", "layer_norm2"),
        neck=("neck.conv1", "neck.layer_norm1", "neck.conv2", "neck.layer_norm2"),
    ),
    _has("vision_encoder.layers.0.attn.rel_pos_h"),
    ignore=("prompt_encoder.*", "mask_decoder.*", "shared_image_embedding.*"),
    family="sam",
)
TIMM = Layout(
    "timm",
    _rules("", mlp=("fc1", "fc2")),
    _has("blocks.0.attn.rel_pos_h", "blocks.0.mlp.fc1.weight"),
    ignore=("head.*",),
    family="sam",
)
LAYOUTS = (META, HF, TIMM)
