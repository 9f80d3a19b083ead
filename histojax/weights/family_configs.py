"""config.json of timm and transformers for the networks that are no plain ViT, and what they say that tensors do not.

All of a network's sizes are read off its tree; heads and epsilon are not in it and have to be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.library_configs import InputRule, hf_arguments, timm_arguments, timm_entry

Tree = Mapping[str, Any]
_RESNET50 = ((3, 4, 6, 3), (64, 128, 256, 512))  # blocks of the stages and widths of their 3x3 convolutions


def default_rule(family: str, tree: Tree) -> InputRule:
    """Return the input that is usual for a family, for a source that does not state its own."""
    if family == "sam":
        return InputRule(_sam_side(tree), None, "bilinear")
    side = _beit_side(tree) if family == "beit" else 224
    return InputRule(side, side)


def resnet_timm(tree: Tree, rule: InputRule) -> dict[str, Any]:
    """Return timm's config.json of a ResNet-50, with its classifier if the tree has one.

    Raises:
        UserError: another ResNet; timm has no way to say its widths.
    """
    stages = [tree[f"layer{i}"] for i in range(1, 5) if f"layer{i}" in tree]
    widths = tuple(stage["block0"]["conv2"]["kernel"].shape[-1] for stage in stages)
    if (tuple(map(len, stages)), widths) != _RESNET50 or tree["conv1"]["kernel"].shape[-1] != 64:
        what = f"stages of {list(map(len, stages))} blocks and widths {list(widths)}"
        raise UserError(f"timm has no ResNet with {what}: export as torchvision (names only)")
    classes = tree["fc"]["bias"].shape[0] if "fc" in tree else 0
    side = rule.crop or rule.size
    return timm_entry("resnet50", 2048, rule, side, "conv1", "fc", "avg", {}, fixed=False, classes=classes)


def swin_timm(tree: Tree, rule: InputRule) -> dict[str, Any]:
    """Return timm's config.json of a plain Swin."""
    stages = [tree[f"stage{i}"]["blocks"] for i in range(sum(key.startswith("stage") for key in tree))]
    rows = stages[0]["block0"]["rel_pos"].shape[0]
    dim, side = tree["stem"]["norm"]["scale"].shape[0], rule.crop or rule.size
    arguments = {
        "img_size": side,
        "embed_dim": dim,
        "depths": [len(blocks) for blocks in stages],
        "num_heads": [blocks["block0"]["rel_pos"].shape[-1] for blocks in stages],
        "window_size": (math.isqrt(rows) + 1) // 2,
    }
    name, features = "swin_tiny_patch4_window7_224", dim * 2 ** (len(stages) - 1)
    return timm_entry(name, features, rule, side, "patch_embed.proj", "head.fc", "avg", arguments)


# SAM


def _sam_side(tree: Tree) -> int:
    """Side of the image in pixels."""
    return _patch(tree) * tree["pos_embed"].shape[1]


def _sam_sizes(tree: Tree) -> dict[str, Any]:
    """Sizes of a SAM image encoder; which blocks see the whole map is told by the lengths of their tables."""
    depth, dim, _ = tree["blocks"]["attn"]["qkv"]["kernel"].shape
    tables = [tree["rel_pos"][f"block{i}"]["h"].shape for i in range(depth)]
    grid = tree["pos_embed"].shape[1]
    whole = [i for i, (rows, _) in enumerate(tables) if rows == 2 * grid - 1]
    others = {rows for i, (rows, _) in enumerate(tables) if i not in whole}
    if len(others) > 1:
        raise UserError(
            f"timm and transformers cannot express tables of relative positions with {sorted(others)} rows for a map "
            f"of {grid} x {grid}: export as meta (names only)"
        )
    return {
        "dim": dim,
        "depth": depth,
        "heads": dim // tables[0][1],
        "global": whole,
        "window": (others.pop() + 1) // 2 if others else grid,
        "patch": _sam_side(tree) // grid,
        "image": _sam_side(tree),
        "hidden": tree["blocks"]["mlp"]["fc1"]["kernel"].shape[-1],
        "features": tree["neck"]["conv1"]["kernel"].shape[-1],
    }


def sam_timm(tree: Tree, rule: InputRule, eps: float) -> dict[str, Any]:
    """Return timm's config.json of a SAM image encoder."""
    c = _sam_sizes(tree)
    name = {1024: "samvit_large_patch16", 1280: "samvit_huge_patch16"}.get(c["dim"], "samvit_base_patch16")
    arguments = timm_arguments(c) | {
        "global_attn_indexes": c["global"],
        "window_size": c["window"],
        "neck_chans": c["features"],
    }
    if eps == 1e-6:  # timm's blocks have 1e-5 by default, and 1e-6 for a norm that is not named
        arguments["norm_layer"] = ""
    return timm_entry(name, c["features"], rule, c["image"], "patch_embed.proj", "head.fc", "avg", arguments)


def sam_hf(tree: Tree, eps: float) -> dict[str, Any]:
    """Return transformers' config.json for SamVisionModel."""
    c = _sam_sizes(tree)
    return hf_arguments("SamVisionModel", "sam_vision_model", c, eps) | {
        "output_channels": c["features"],
        "mlp_dim": c["hidden"],
        "qkv_bias": True,
        "use_abs_pos": True,
        "use_rel_pos": True,
        "window_size": c["window"],
        "global_attn_indexes": c["global"],
        "num_pos_feats": c["features"] // 2,
    }


# BEiT and data2vec-vision


def _beit_sizes(tree: Tree, heads: int | None) -> dict[str, Any]:
    """Sizes of a BEiT; the tables of relative positions have a column per head."""
    depth, dim, _ = tree["blocks"]["attn"]["qkv"]["kernel"].shape
    table = tree.get("layer_rel_pos", tree.get("shared_rel_pos"))
    if table is not None and heads not in (None, table.shape[-1]):
        raise UserError(f"--heads {heads}, but the tables of relative positions are for {table.shape[-1]}")
    return {
        "dim": dim,
        "depth": depth,
        "heads": _known(heads) if table is None else table.shape[-1],
        "patch": _patch(tree),
        "image": _beit_side(tree),
        "hidden": tree["blocks"]["mlp"]["fc1"]["kernel"].shape[-1],
        "absolute": "pos_embed" in tree,
        "layer": "layer_rel_pos" in tree,
        "shared": "shared_rel_pos" in tree,
        "scaled": "ls1" in tree["blocks"],
        "mean": "fc_norm" in tree,
    }


def _beit_side(tree: Tree) -> int:
    """Side of the image in pixels, by the absolute or else the relative positions."""
    table = tree.get("layer_rel_pos", tree.get("shared_rel_pos"))
    grid = math.isqrt(tree["pos_embed"].shape[1] - 1) if table is None else (math.isqrt(table.shape[-2] - 3) + 1) // 2
    return _patch(tree) * grid


def _patch(tree: Tree) -> int:
    return math.isqrt(tree["patch_embed"]["kernel"].shape[0] // 3)


def _known(heads: int | None) -> int:
    if heads is None:
        raise UserError("nothing in the file says how many attention heads it has: give --heads N, or --encoder NAME")
    return heads


def beit_timm(tree: Tree, rule: InputRule, heads: int | None) -> dict[str, Any]:
    """Return timm's config.json of a BEiT: it gives the normed mean of the patches, or the class token."""
    c = _beit_sizes(tree, heads)
    arguments = timm_arguments(c) | {
        "use_abs_pos_emb": c["absolute"],
        "use_rel_pos_bias": c["layer"],
        "use_shared_rel_pos_bias": c["shared"],
        "init_values": 0.1 if c["scaled"] else 0.0,
        "global_pool": "avg" if c["mean"] else "token",  # decides where the final norm is, too
    }
    first, pool = "patch_embed.proj", arguments["global_pool"]
    return timm_entry("beit_base_patch16_224", c["dim"], rule, c["image"], first, "head", pool, arguments)


def beit_hf(tree: Tree, eps: float, heads: int | None) -> dict[str, Any]:
    """Return transformers' config.json for BeitModel, which is data2vec-vision's network too."""
    c = _beit_sizes(tree, heads)
    return hf_arguments("BeitModel", "beit", c, eps) | {
        "intermediate_size": c["hidden"],
        "use_mask_token": False,
        "use_absolute_position_embeddings": c["absolute"],
        "use_relative_position_bias": c["layer"],
        "use_shared_relative_position_bias": c["shared"],
        "layer_scale_init_value": 0.1 if c["scaled"] else 0.0,
        "use_mean_pooling": c["mean"],
        "drop_path_rate": 0.0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def dinov3_hf(tree: Tree, eps: float, heads: int | None) -> dict[str, Any]:
    """Return transformers' config.json for DINOv3ViTModel; `heads` default to 64 channels each."""
    depth, dim, _ = tree["blocks"]["attn"]["qkv"]["kernel"].shape
    mlp = tree["blocks"]["mlp"]
    size = {
        "dim": dim,
        "depth": depth,
        "heads": _known(heads or (dim // 64 if dim % 64 == 0 else None)),
        "image": 224,
        "patch": _patch(tree),
    }
    return hf_arguments("DINOv3ViTModel", "dinov3_vit", size, eps) | {
        "intermediate_size": mlp["down" if "down" in mlp else "fc2"]["kernel"].shape[1],
        "use_gated_mlp": "gate" in mlp,
        "hidden_act": "silu" if "gate" in mlp else "gelu",
        "num_register_tokens": tree["register_tokens"].shape[1],
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": 1.0,
        "drop_path_rate": 0.0,
        "attention_dropout": 0.0,
    }
