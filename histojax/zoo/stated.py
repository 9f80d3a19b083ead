"""What the tensors of a network do not say: how many attention heads, and which epsilon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from histojax.models.network import family as family_of
from histojax.models.sizes import SIZES
from histojax.weights.families import FAMILIES
from histojax.zoo.table import ENCODERS


class Stated(NamedTuple):
    """What a config.json of another library says."""

    heads: int | None = None
    eps: float | None = None


def stated_beside(path: Path, family: str, tree: Mapping[str, Any]) -> Stated:
    """What the config.json of timm or transformers in a file's folder says of it, if it is for such a network."""
    folder = path if path.is_dir() else path.parent
    try:
        config = json.loads((folder / "config.json").read_text())
        width = config.get("hidden_size", config.get("num_features"))
        if family in ("resnet", "swin") or width != _width_and_depth(tree)[0]:
            return Stated()
        arguments = config.get("model_args") or {}
        heads = config.get("num_attention_heads", arguments.get("num_heads"))
        eps = config.get("layer_norm_eps")
    except (OSError, ValueError, KeyError, AttributeError):
        return Stated()
    return Stated(heads if isinstance(heads, int) else None, eps if isinstance(eps, float) else None)


def heads_by_size(family: str, tree: Mapping[str, Any]) -> tuple[int | None, str]:
    """(heads, whose) of a ViT or DINOv3 by its width and depth, if all that are known agree; else (None, "")."""
    size = _width_and_depth(tree)
    known = {r.name: heads for r in ENCODERS.values() if (heads := _heads_if(r.network, family, size))}
    if family == "vit" and not known:
        known = {name: heads for name, (dim, depth, heads, _) in SIZES.items() if (dim, depth) == size}
    if len(set(known.values())) != 1:
        return None, ""
    names = ", ".join(list(known)[:3]) + (" and others" if len(known) > 3 else "")
    return next(iter(known.values())), names


def heads_of(network: Any) -> int | None:
    """Attention heads of a configuration, where it is one number."""
    heads = getattr(network, "heads", None)
    return heads if isinstance(heads, int) else None


def usual_eps(family: str, layout: str) -> float:
    """Epsilon of LayerNorm in files of a layout: Hugging Face's ViT and BEiT have a smaller one."""
    return 1e-12 if (family, layout) in (("vit", "hf-vit"), ("beit", "hf")) else FAMILIES[family].eps


def _heads_if(network: Any, family: str, size: tuple[int, int]) -> int | None:
    """Heads of a network if it is of a family and size."""
    return network.heads if family_of(network) == family and (network.dim, network.depth) == size else None


def _width_and_depth(tree: Mapping[str, Any]) -> tuple[int, int]:
    depth, dim, _ = tree["blocks"]["attn"]["qkv"]["kernel"].shape
    return dim, depth
