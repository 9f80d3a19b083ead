"""From a configuration to its network: which class it is, its size, and which of its outputs is the feature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.beit import Beit, BeitConfig
from histojax.models.dinov3 import Dinov3, Dinov3Config
from histojax.models.imagebind import ImageBind, ImageBindConfig
from histojax.models.resnet import ResNet, ResNetConfig
from histojax.models.sam import Sam, SamConfig
from histojax.models.swin import Swin, SwinConfig
from histojax.models.vit import ViT, ViTConfig

NETWORKS: dict[type, tuple[str, Callable[..., nnx.Module]]] = {  # configuration: name of the family, network
    ViTConfig: ("vit", ViT),
    Dinov3Config: ("dinov3", Dinov3),
    BeitConfig: ("beit", Beit),
    SamConfig: ("sam", Sam),
    ImageBindConfig: ("imagebind", ImageBind),
    SwinConfig: ("swin", Swin),
    ResNetConfig: ("resnet", ResNet),
}

Outputs = dict[str, jax.Array]  # what a network returns, see its `__call__`


def _cls_and_mean(out: Outputs) -> jax.Array:
    return jnp.concatenate([out["cls"], out["patches"].mean(1)], axis=-1)


POOLINGS: dict[str, tuple[str, Callable[[Outputs], jax.Array]]] = {  # what it is, feature (N, D) of the outputs
    "cls": ("class token after the final norm", lambda out: out["cls"]),
    "cls+mean": ("class token and mean of the patch tokens, side by side (registers left out)", _cls_and_mean),
    "mean": ("mean of the patch tokens after the final norm", lambda out: out["patches"].mean(1)),
    "prenorm_mean": ("mean of the patch tokens after the last block, before any norm", lambda out: out["mean"]),
    "norm_of_mean": ("mean of the patch tokens, normed after it", lambda out: out["pooled"]),
    "last_stage": ("mean over the map of the last stage", lambda out: out["pooled"]),
    "neck_mean": ("mean over the map of the neck", lambda out: out["pooled"]),
    "unit": ("projected class token, unit norm", lambda out: out["embedding"]),
}


def family(config: Any) -> str:
    """Name of the network's family: vit, dinov3, beit, sam, imagebind, swin or resnet."""
    return NETWORKS[type(config)][0]


def build(config: Any, rngs: nnx.Rngs) -> Any:
    """The network with random parameters."""
    return NETWORKS[type(config)][1](config, rngs=rngs)


@functools.lru_cache(maxsize=128)
def abstract(config: Any) -> tuple[Any, dict[str, Any]]:
    """(graph, tree of ShapeDtypeStructs) of the network, without computing or allocating; not to be changed."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(config, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def parameter_count(config: Any) -> int:
    """Number of parameters that the published file has for this network, counted on the network.

    BatchNorm statistics are none. Three things differ between file and network: keys without a bias are a zero
    here (BEiT, DINOv3), a mask token that only training needs (DINOv3), and ImageBind's kernel over two frames,
    which is one kernel here.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract(config)[1])
    count = sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key not in ("mean", "var"))
    if isinstance(config, BeitConfig):
        count -= config.depth * config.dim
    if isinstance(config, Dinov3Config):
        count += config.dim - config.depth * config.dim
    if isinstance(config, ImageBindConfig):
        count += 3 * config.patch**2 * config.dim
    return count


def patch_tokens(out: Outputs) -> jax.Array:
    """(N, P, D) tokens of places, row by row; raises KeyError for a network that has none."""
    if "map" in out:  # SAM: the neck's map
        return out["map"].reshape(len(out["map"]), -1, out["map"].shape[-1])
    return out["tokens"] if "tokens" in out else out["patches"]


def output_shapes(config: Any, side: int) -> dict[str, Any]:
    """ShapeDtypeStructs of the network's outputs for one square image, without computing anything."""
    graph, shapes = abstract(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda params, x: nnx.merge(graph, params)(x), shapes, image)


def feature_width(config: Any, pooling: str, side: int) -> int:
    """Width of the pooled feature for images of `side` pixels, by shapes alone."""
    return jax.eval_shape(POOLINGS[pooling][1], output_shapes(config, side)).shape[-1]
