"""What other libraries want beside the weights of a ViT: config.json of timm and transformers, Meta's constructor.

The other networks' configs are in family_configs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.vit_tree import grid_of, positions_of

_TIMM_SIZES = {384: ("small", 12), 768: ("base", 12), 1024: ("large", 24), 1536: ("giant", 40)}  # dim: name, depth
_PILLOW = {"bilinear": 2, "bicubic": 3}


@dataclass(frozen=True)
class InputRule:
    """How tiles become the network's input: resize the shorter side, crop the centre, (x / 255 - mean) / std."""

    size: int
    crop: int | None
    filter: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    def side(self) -> int:
        """Side of the network's input in pixels."""
        return self.crop or self.size


@dataclass(frozen=True)
class Shape:
    """What a ViT's tree says of its network, and the two things it does not say: heads and epsilon."""

    dim: int
    depth: int
    heads: int
    patch: int
    image: int  # side in pixels that the position grid is for
    registers: int
    ffn: str  # "mlp" or "swiglu"
    hidden: int
    layerscale: bool
    positions: str  # see vit_tree.positions_of
    eps: float = 1e-6


def architecture(tree: Mapping[str, Any], heads: int | None = None, eps: float = 1e-6) -> Shape:
    """Return the shape of a ViT's tree; heads default to 64 channels each.

    Raises:
        UserError: the width is no multiple of 64 and the heads are not given.
    """
    depth, dim, _ = tree["blocks"]["attn"]["qkv"]["kernel"].shape
    mlp = tree["blocks"]["mlp"]
    swiglu = "w3" in mlp
    patch = round((tree["patch_embed"]["kernel"].shape[0] / 3) ** 0.5)
    if heads is None and dim % 64:
        raise UserError(f"a width of {dim} is no multiple of 64: give the number of attention heads (--heads)")
    return Shape(
        dim,
        depth,
        heads or dim // 64,
        patch,
        image=patch * grid_of(tree),
        registers=tree["register_tokens"].shape[1] if "register_tokens" in tree else 0,
        ffn="swiglu" if swiglu else "mlp",
        hidden=mlp["w3" if swiglu else "fc2"]["kernel"].shape[1],
        layerscale="ls1" in tree["blocks"],
        positions=positions_of(tree),
        eps=eps,
    )


def timm_config(shape: Shape, rule: InputRule) -> dict[str, Any]:
    """Return timm's config.json: the DINOv2 entry of this size, and what differs from it in `model_args`."""
    swiglu = shape.ffn == "swiglu"
    size, depth = _TIMM_SIZES.get(shape.dim, ("", 0))
    usual = 4096 if size == "giant" else 4 * shape.dim
    if (size == "giant") != swiglu or (depth, usual, shape.dim) != (shape.depth, shape.hidden, 64 * shape.heads):
        size = ""  # not one of DINOv2's: state everything
    name = f"vit_{size or ('giant' if swiglu else 'small')}_patch14_{'reg4_' if shape.registers else ''}dinov2"
    if not (shape.layerscale or swiglu):  # an entry without LayerScale: timm takes None for "not said"
        return _timm_plain(shape, rule)
    arguments: dict[str, Any] = {"img_size": shape.image}
    if not size:
        ratio = hidden_ratio(shape.hidden * (2 if swiglu else 1), shape.dim)
        arguments |= {"embed_dim": shape.dim, "depth": shape.depth, "num_heads": shape.heads, "mlp_ratio": ratio}
    if shape.patch != 14:
        arguments["patch_size"] = shape.patch
    if shape.registers not in (0, 4):
        arguments["reg_tokens"] = shape.registers
    if not shape.layerscale:
        arguments["init_values"] = None
    if shape.registers and shape.positions == "all":
        arguments["no_embed_class"] = False
    if not shape.registers and shape.positions == "patches":
        arguments["no_embed_class"] = True
    return timm_entry(name, shape.dim, rule, shape.image, "patch_embed.proj", "head", "token", arguments)


def _timm_plain(shape: Shape, rule: InputRule) -> dict[str, Any]:
    """Return the config of a ViT without LayerScale, all arguments stated."""
    arguments = timm_arguments(vars(shape)) | {
        "reg_tokens": shape.registers,
        "no_embed_class": shape.positions == "patches" or (shape.registers > 0 and shape.positions == "cls"),
    }
    name = "vit_base_patch16_224"
    return timm_entry(name, shape.dim, rule, shape.image, "patch_embed.proj", "head", "token", arguments)


def timm_arguments(size: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that timm's transformers share, of image, patch, dim, depth, heads and hidden width."""
    return {
        "img_size": size["image"],
        "patch_size": size["patch"],
        "embed_dim": size["dim"],
        "depth": size["depth"],
        "num_heads": size["heads"],
        "mlp_ratio": hidden_ratio(size["hidden"], size["dim"]),
    }


def hf_arguments(model: str, kind: str, size: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """Return what the config.json of all transformers of Hugging Face has, of the same sizes."""
    return {
        "architectures": [model],
        "model_type": kind,
        "hidden_size": size["dim"],
        "num_hidden_layers": size["depth"],
        "num_attention_heads": size["heads"],
        "image_size": size["image"],
        "patch_size": size["patch"],
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": eps,
        "torch_dtype": "float32",
    }


def timm_entry(
    name: str,
    features: int,
    rule: InputRule,
    image: int,
    first_conv: str,
    classifier: str,
    pool: str,
    arguments: Mapping[str, Any],
    *,
    fixed: bool = True,
    classes: int = 0,
) -> dict[str, Any]:
    """Return timm's config.json of an architecture; `fixed`: it takes one input size only."""
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": features,
        "global_pool": pool,
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, image, image],
            "fixed_input_size": fixed,
            "interpolation": rule.filter,
            "crop_pct": image / rule.size,
            "crop_mode": "center",
            "mean": list(rule.mean),
            "std": list(rule.std),
            "num_classes": classes,
            "pool_size": None,
            "first_conv": first_conv,
            "classifier": classifier,
        },
    }


def hf_config(shape: Shape) -> dict[str, Any]:
    """Return transformers' config.json for Dinov2Model or Dinov2WithRegistersModel.

    Both have LayerScale; for a ViT without it the file holds ones.
    """
    model = ("Dinov2WithRegistersModel", "dinov2_with_registers") if shape.registers else ("Dinov2Model", "dinov2")
    config = hf_arguments(*model, vars(shape), shape.eps) | {
        "mlp_ratio": _hf_ratio(shape),
        "use_swiglu_ffn": shape.ffn == "swiglu",
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }
    return config | ({"num_register_tokens": shape.registers} if shape.registers else {})


def hf_preprocessor(image: int, rule: InputRule) -> dict[str, Any]:
    """Return transformers' preprocessor_config.json: resize the shorter side, centre crop if any, normalise."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": rule.size},
        "resample": _PILLOW[rule.filter],
        "do_center_crop": rule.crop is not None,
        "crop_size": {"height": image, "width": image},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(rule.mean),
        "image_std": list(rule.std),
        "do_convert_rgb": True,
    }


def meta_call(shape: Shape) -> str:
    """Return the Python expression that builds the network with facebookresearch/dinov2's class."""
    arguments = {
        "img_size": shape.image,
        "patch_size": shape.patch,
        "embed_dim": shape.dim,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": _meta_ratio(shape),
        "ffn_layer": "swiglufused" if shape.ffn == "swiglu" else "mlp",
        "init_values": 1.0 if shape.layerscale else None,
        "num_register_tokens": shape.registers,
        "block_chunks": 0,
    }
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"DinoVisionTransformer({text}, block_fn=partial(Block, attn_class=MemEffAttention))"


def hidden_ratio(hidden: int, dim: int) -> int | float:
    """Return the mlp_ratio of which int(dim * mlp_ratio) is `hidden`: the quarter keeps rounding from losing one."""
    return hidden // dim if hidden % dim == 0 else (hidden + 0.25) / dim


def _hf_ratio(shape: Shape) -> int:
    """Return the integer mlp_ratio from which transformers computes this hidden width."""
    for ratio in range(1, 17):
        full = int(shape.dim * ratio)
        if shape.hidden == (full if shape.ffn == "mlp" else _two_thirds(full)):
            return ratio
    raise UserError(f"transformers cannot express a hidden width of {shape.hidden} at {shape.dim}: export as timm")


def _meta_ratio(shape: Shape) -> int | float:
    """Return the mlp_ratio from which Meta's class computes this hidden width."""
    if shape.ffn == "mlp":
        return hidden_ratio(shape.hidden, shape.dim)
    full = next((n for n in range(shape.hidden, 2 * shape.hidden + 8) if _two_thirds(n) == shape.hidden), None)
    if full is None:
        raise UserError(f"facebookresearch/dinov2 cannot express a SwiGLU width of {shape.hidden}: export as timm")
    exact = _two_thirds(4 * shape.dim) == shape.hidden
    return 4 if exact else (full + 0.25) / shape.dim


def _two_thirds(width: int) -> int:
    """Return the width that DINOv2's fused SwiGLU makes of a plain one."""
    return (int(width * 2 / 3) + 7) // 8 * 8
