"""Runs a golden encoder: from (weights, its .json, inputs) to arrays under the golden's names.

One row of `FAMILIES` per kind of network: how the .json describes it, and which of its outputs has which name. What
the .json leaves open is read off the tensors. The tests of the encoder families use the same functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.beit import BeitConfig
from histojax.models.blocks import in_order
from histojax.models.dinov3 import Dinov3Config
from histojax.models.imagebind import ImageBindConfig
from histojax.models.layers import patchify
from histojax.models.network import abstract, family
from histojax.models.resnet import ResNetConfig
from histojax.models.sam import SamConfig
from histojax.models.swin import SwinConfig
from histojax.models.vit import ViTConfig
from histojax.weights.backbone import open_backbone
from parity_cases.recipes import recipe

ATOL, RTOL = 3e-5, 1e-5
WRONG = ("ln_eps_x10", "bn_eps_x100", "gelu_tanh")
Named = dict[str, Any]
Arrays = Mapping[str, Any]


def network_of(description: dict, weights: Path) -> Any:
    """Our configuration of the network that a golden's .json describes and a file has the tensors of."""
    kind, describe, _ = FAMILIES[architecture(description)]
    return describe(description, open_backbone(weights, family=kind).read().tree)


def architecture(description: dict) -> str:
    """The key of `FAMILIES`, or another name for what is no encoder; "" if the .json says nothing."""
    return description.get("arch") or description.get("hf_config", {}).get("model_type", "")


def load(config: Any, weights: Path) -> dict[str, Any]:
    """The parameter tree of a network from a file; missing, misshapen and left-over tensors raise UserError."""
    tree = open_backbone(weights, family=family(config)).read(abstract(config)[1]).tree
    return jax.tree.map(jnp.asarray, tree)


def program(
    config: Any, description: dict, only: str = "", wanted: Iterable[str] = ()
) -> Callable[[Any, Named], Named]:
    """Compiled (parameter tree, inputs by name, channels last) -> outputs under the names of the golden arrays.

    Args:
        config: the network, see `network_of`; fields may be changed on purpose.
        description: the .json.
        only: name of the one output that is wanted; less is compiled then.
        wanted: names of all recorded arrays: `features_<tag>` is made of an input `x_<tag>` if it is among them.
    """
    graph, outputs = abstract(config)[0], FAMILIES[architecture(description)][2]

    def run(tree: Any, images: Named) -> Named:
        model = nnx.merge(graph, tree)
        named = outputs(model, images, description)
        for tag in (name.removeprefix("x") for name in images if name != "x"):
            if f"features{tag}" in wanted and f"features{tag}" not in named:
                named[f"features{tag}"] = outputs(model, {"x": images[f"x{tag}"]}, description)["features"]
        return {only: named[only]} if only else named

    return jax.jit(run)


def is_input(name: str) -> bool:
    """Whether an array is an input: `x`, `x_*`."""
    return re.fullmatch(r"x(_.+)?", name) is not None


def input_names(arrays: Iterable[str]) -> list[str]:
    """The inputs among golden arrays."""
    return [name for name in arrays if is_input(name)]


def inputs_of(arrays: Arrays) -> Named:
    """The inputs among golden arrays, channels last."""
    return {name: np.moveaxis(arrays[name], 1, -1) for name in input_names(arrays)}


def run(
    weights: Path, description: dict, arrays: Arrays, only: str = "", choice: str = "", **wrong: Any
) -> dict[str, np.ndarray]:
    """Outputs under the names of the golden arrays; `choice` is one of `WRONG`, `wrong` fields of the config."""
    config, images = dataclasses.replace(network_of(description, weights), **wrong), inputs_of(arrays)
    tree = load(config, weights)
    changed = wrong_choice(config, choice) if choice else config
    with tanh_gelu() if choice == "gelu_tanh" else contextlib.nullcontext():
        named = program(changed, description, only, tuple(arrays))(tree, images)
    return {name: np.asarray(value) for name, value in named.items()}


def wrong_choice(config: Any, choice: str) -> Any:
    """The configuration with one of the `WRONG` epsilons, or the same for "gelu_tanh" (see `tanh_gelu`).

    None where the network has no such thing: no LayerNorm, no BatchNorm, no GELU.
    """
    batch_norm = "eps" if isinstance(config, ResNetConfig) else "bn_eps"
    field, factor = {"ln_eps_x10": ("eps", 10), "bn_eps_x100": (batch_norm, 100)}.get(choice, ("", 0))
    if choice == "gelu_tanh":
        gated = getattr(config, "gated", False) or getattr(config, "ffn", "mlp") != "mlp"
        return None if gated or isinstance(config, ResNetConfig) else config
    if not hasattr(config, field) or (choice == "ln_eps_x10" and isinstance(config, ResNetConfig)):
        return None
    return dataclasses.replace(config, **{field: factor * getattr(config, field)})


@contextlib.contextmanager
def tanh_gelu() -> Iterator[None]:
    """What is traced inside has the tanh approximation of the GELU."""
    exact = jax.nn.gelu
    with mock.patch.object(jax.nn, "gelu", lambda x, approximate=True: exact(x, approximate=True)):
        yield


def excess(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error as a multiple of the tolerance; more than 1 fails. Infinite if anything is not finite."""
    if not np.isfinite(got).all():
        return np.inf
    return float((np.abs(got - wanted) / (ATOL + RTOL * np.abs(wanted))).max())


def first_images(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`got` cut to the images that a tap was recorded for; unchanged if the shapes differ in more than one axis."""
    if got.ndim != wanted.ndim or sum(a != b for a, b in zip(got.shape, wanted.shape)) != 1:
        return got
    return got[tuple(slice(0, n) for n in wanted.shape)]


# ViT


def _timm_config(c: dict, tree: Named) -> ViTConfig:
    blocks, registers = tree["blocks"], c.get("reg_tokens", 0)
    swiglu = "w12" in blocks["mlp"]
    return ViTConfig(
        c["dim"],
        c["depth"],
        c["heads"],
        patch=c["patch_size"],
        image=c["img_size"],
        registers=registers,
        ffn="swiglu" if swiglu else "mlp",
        hidden=blocks["mlp"]["w3" if swiglu else "fc2"]["kernel"].shape[-2],
        layerscale=c.get("init_values", 1.0) if "ls1" in blocks else None,
        eps=c["ln_eps"],
        positions="patches" if c.get("no_embed_class") else "all" if registers else "cls",
        interpolation="antialias",
        mask_token=False,
    )


def _hf_vit_config(description: dict, tree: Named) -> ViTConfig:
    c = description["hf_config"]
    mlp = tree["blocks"]["mlp"]
    return ViTConfig(
        c["hidden_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"],
        patch=c["patch_size"],
        image=c["image_size"],
        registers=c.get("num_register_tokens", 0),
        ffn="swiglu" if c.get("use_swiglu_ffn") else "mlp",
        hidden=mlp["w3" if "w12" in mlp else "fc2"]["kernel"].shape[-2],
        layerscale=1.0 if c["model_type"].startswith("dinov2") else None,
        eps=c["layer_norm_eps"],
        interpolation="antialias" if c.get("num_register_tokens") else "exact",
        mask_token=c["model_type"].startswith("dinov2"),
    )


def _vit(model: Any, images: Named, description: dict) -> Named:
    x = images["x"]
    out, blocks = model(x), model.intermediate(x, tuple(range(model.config.depth)), norm=False)
    tokens = jnp.concatenate([out["cls"][:, None], out["registers"], out["patches"]], axis=1)
    after = {i: block["prenorm"] for i, block in enumerate(blocks)}
    named = {f"tap:blocks.{i}": value for i, value in after.items()}
    named |= {"hidden_0": model.embed(x)} | {f"hidden_{i + 1}": value for i, value in after.items()}
    feature = recipe(description["feature"], tokens, out["prenorm"], model.config.prefix)
    return {**named, "last_hidden_state": tokens, "features": feature}


# the other families


def _channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def _resnet_config(c: dict, tree: Named) -> ResNetConfig:
    return ResNetConfig(
        tuple(c["layers"]), tuple(c["planes"]), c["stem"], c["expansion"], c["num_classes"], c["bn_eps"]
    )


def _resnet(model: Any, images: Named, description: dict) -> Named:
    out: Named = {}
    for name, x in images.items():
        maps = model(x)
        prefix = "odd_" if name == "x_odd" else ""
        last = len(model.config.blocks)
        pooled = {f"trunc_layer{i}": maps[f"layer{i}"].mean((1, 2)) for i in range(1, last)}
        pooled[f"pool_layer{last}"] = maps["pooled"]
        out |= {f"{prefix}features_{key}": value for key, value in pooled.items()}
        if not prefix:
            out |= _resnet_taps(model, x, maps)
            out |= {"features": maps["pooled"], "logits": maps.get("logits", maps["pooled"])}
    return out


def _resnet_taps(model: Any, x: jax.Array, maps: Named) -> Named:
    conv = model.conv1(x)
    # the reference's ReLU works in place, on the tensor kept as bn1
    taps = {"conv1": conv, "bn1": jax.nn.relu(model.bn1(conv)), "maxpool": maps["stem"]}
    taps |= {name: value for name, value in maps.items() if name.startswith("layer")}
    return {f"tap:{name}": _channels_first(value) for name, value in taps.items()}


def _sam_config(c: dict, tree: Named) -> SamConfig:
    return SamConfig(
        c["dim"], c["depth"], c["heads"], tuple(c["global_attn_indexes"]), c["window"], c["patch"], c["img_size"],
        c["out_chans"], c["rel_pos_len_global"], c["ln_eps"],
    )  # fmt: skip


def _sam(model: Any, images: Named, description: dict) -> Named:
    x = images["x"]
    out, hidden = model(x), model.hidden_states(x)
    taps = {f"tap:blocks.{i}": hidden[i + 1] for i in range(model.config.depth)}
    taps["tap:patch_embed"] = hidden[0] - model.pos_embed[...]
    neck = model.neck
    taps["tap:neck.0"] = first = neck.conv1(out["tokens"])
    taps["tap:neck.1"] = first = neck.norm1(first)
    taps["tap:neck.2"] = second = neck.conv2(first)
    taps["tap:neck.3"] = neck.norm2(second)
    taps = {key: _channels_first(value) if "neck" in key else value for key, value in taps.items()}
    named = {"features": out["pooled"], "features_max": out["pooled_max"]}
    return {**taps, **named, "embedding": _channels_first(out["map"])}


def _beit_config(c: dict, tree: Named) -> BeitConfig:
    """Whether a table is shared, and what there is beside it, the tensors say."""
    relative = "shared" if "shared_rel_pos" in tree else "layer" if "layer_rel_pos" in tree else "none"
    sizes = c["dim"], c["depth"], c["heads"], c["patch"], c["img_size"]
    norm, layerscale = "mean" if "fc_norm" in tree else "tokens", "ls1" in tree["blocks"]
    return BeitConfig(*sizes, relative, "pos_embed" in tree, layerscale, norm, c["ln_eps"])


def _beit(model: Any, images: Named, description: dict) -> Named:
    x = images["x"]
    out, hidden = model(x), model.hidden_states(x)
    depth = model.config.depth
    named = {f"tap:blocks.{i}": hidden[i + 1] for i in range(depth)}
    named |= {f"hidden_{i}": hidden[i] for i in range(depth + 1)}
    tokens = jnp.concatenate([out["cls"][:, None], out["patches"]], axis=1)
    if model.config.norm == "tokens":
        named["last_hidden_state"] = tokens
    return {**named, "features": recipe(description["pool"], tokens, hidden[depth], 1, out["pooled"])}


def _imagebind_config(c: dict, tree: Named) -> ImageBindConfig:
    return ImageBindConfig(c["dim"], c["depth"], c["heads"], c["out_dim"], c["patch"], c["img_size"], c["ln_eps"])


def _imagebind(model: Any, images: Named, description: dict) -> Named:
    x, c = images["x"], model.config
    out, hidden = model(x), model.hidden_states(x)
    trunk = "tap:modality_trunks.vision"  # its blocks see (L, B, D)
    named = {f"{trunk}.blocks.{i}": hidden[i + 1].swapaxes(0, 1) for i in range(c.depth)}
    named |= {f"{trunk}.pre_transformer_layer.0": hidden[0], "tap:modality_heads.vision": out["projected"]}
    stem = model.patch_embed(patchify(x, c.patch))
    named["tap:modality_preprocessors.vision.rgbt_stem"] = stem.reshape(len(x), -1, c.dim)
    return {**named, "features": out["embedding"]}


def _swin_config(c: dict, tree: Named) -> SwinConfig:
    sizes = c["dim"], tuple(c["depths"]), tuple(c["heads"]), c["window"], c["img_size"]
    return SwinConfig(*sizes, eps=c["ln_eps"], bn_eps=c["bn_eps"])


def _swin(model: Any, images: Named, description: dict) -> Named:
    out = model(images["x"])
    x = model.stem.project(images["x"])
    taps = {"patch_embed.proj": _channels_first(x), "patch_embed": out["stem"], "norm": out["tokens"]}
    x = out["stem"]
    for i in range(len(model.config.depths)):
        taps[f"layers.{i}"] = out[f"stage{i}"]
        for j, block in enumerate(in_order(getattr(model, f"stage{i}").blocks)):
            taps[f"layers.{i}.blocks.{j}"] = x = block(x)
        x = out[f"stage{i}"]
    flat = {key: v if key.endswith("proj") else v.reshape(len(v), -1, v.shape[-1]) for key, v in taps.items()}
    return {**{f"tap:{key}": value for key, value in flat.items()}, "features": out["pooled"]}


def _dinov3_config(description: dict, tree: Named) -> Dinov3Config:
    c = description["hf_config"]
    return Dinov3Config(
        c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["intermediate_size"],
        c["use_gated_mlp"], c["patch_size"], c["num_register_tokens"], c["rope_theta"], c["layer_norm_eps"],
    )  # fmt: skip


def _dinov3(model: Any, images: Named, description: dict) -> Named:
    out, hidden = model(images["x"]), model.hidden_states(images["x"])
    last = jnp.concatenate([out["cls"][:, None], out["registers"], out["patches"]], axis=1)
    named = {f"hidden_{i}": value for i, value in enumerate(hidden)}
    return {**named, "features": out["cls"], "last_hidden_state": last}


# .json's name: family (as of weights.families), configuration, outputs
FAMILIES: dict[str, tuple[str, Callable[[dict, Named], Any], Callable[[Any, Named, dict], Named]]] = {
    "timm_vit": ("vit", _timm_config, _vit),
    "dinov2": ("vit", _hf_vit_config, _vit),
    "dinov2_with_registers": ("vit", _hf_vit_config, _vit),
    "vit": ("vit", _hf_vit_config, _vit),
    "resnet": ("resnet", _resnet_config, _resnet),
    "sam_vit": ("sam", _sam_config, _sam),
    "beit": ("beit", _beit_config, _beit),
    "data2vec_vision": ("beit", _beit_config, _beit),
    "imagebind_vision": ("imagebind", _imagebind_config, _imagebind),
    "swin_convstem": ("swin", _swin_config, _swin),
    "dinov3_vit": ("dinov3", _dinov3_config, _dinov3),
}
