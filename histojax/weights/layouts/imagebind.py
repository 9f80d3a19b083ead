"""Names of the vision trunk in facebookresearch/ImageBind's file; its five other modalities are not read."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import linear, norm
from histojax.weights.mapping import KINDS, Kind, TensorRule
from histojax.weights.trees import is_ghost

_STEM, _TRUNK, _HEAD = "modality_preprocessors.vision", "modality_trunks.vision", "modality_heads.vision"
_BLOCK = f"{_TRUNK}.blocks.{{layer}}"


def _fold_time(array: np.ndarray) -> np.ndarray:
    """(p * p * 3, D) float32 from (D, 3, frames, p, p): an image is shown as equal frames, so kernels add up."""
    if is_ghost(array):  # only the shape is asked for
        return KINDS["patch"].decode(array[:, :, 0])
    return KINDS["patch"].decode(array.astype(np.float32).sum(2))


RULES: tuple[TensorRule, ...] = (
    TensorRule(f"{_STEM}.cls_token", "cls_token"),
    TensorRule(f"{_STEM}.rgbt_stem.proj.1.weight", "patch_embed/kernel", Kind(_fold_time, None)),
    TensorRule(f"{_STEM}.pos_embedding_helper.pos_embed", "pos_embed"),
    *norm(f"{_TRUNK}.pre_transformer_layer.0", "pre_norm"),
    *norm(f"{_BLOCK}.norm_1", "blocks/norm1"),
    TensorRule(f"{_BLOCK}.attn.in_proj_weight", "blocks/attn/qkv/kernel", "linear"),
    TensorRule(f"{_BLOCK}.attn.in_proj_bias", "blocks/attn/qkv/bias"),
    *linear(f"{_BLOCK}.attn.out_proj", "blocks/attn/proj"),
    *norm(f"{_BLOCK}.norm_2", "blocks/norm2"),
    *linear(f"{_BLOCK}.mlp.fc1", "blocks/mlp/fc1"),
    *linear(f"{_BLOCK}.mlp.fc2", "blocks/mlp/fc2"),
    *norm(f"{_HEAD}.0", "norm"),
    TensorRule(f"{_HEAD}.2.weight", "head/kernel", "linear"),
)


def _recognise(names: Set[str]) -> str:
    mark = f"{_STEM}.rgbt_stem.proj.1.weight"
    return mark if mark in names else ""


IMAGEBIND = Layout(
    "meta",
    RULES,
    _recognise,
    ignore=tuple(f"modality_*.{other}.*" for other in ("text", "audio", "depth", "thermal", "imu")),
    family="imagebind",
)
LAYOUTS = (IMAGEBIND,)
