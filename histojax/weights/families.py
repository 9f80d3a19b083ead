"""The families of networks: a row each, with the layouts that files of it have and what it can be written as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from histojax.common.errors import UserError
from histojax.weights.layouts import Layout, beit, dinov3, imagebind, resnet, sam, swin
from histojax.weights.layouts.dinov2 import META
from histojax.weights.layouts.hf_vit import HF_DINOV2, HF_VIT
from histojax.weights.layouts.timm_vit import TIMM


class Family(NamedTuple):
    """One kind of network."""

    title: str  # in messages
    layouts: tuple[Layout, ...]  # of files that are read
    eps: float  # of its LayerNorms, where nothing says it
    targets: Mapping[str, str]  # what it can be written as, besides our own layout: the layout with these names


FAMILIES: dict[str, Family] = {
    "vit": Family("ViT", (META, TIMM, HF_DINOV2, HF_VIT), 1e-6, {"meta": "meta", "timm": "timm", "hf": "hf"}),
    "resnet": Family("ResNet", resnet.LAYOUTS, 1e-5, {"timm": "torchvision", "torchvision": "torchvision"}),
    "sam": Family("SAM image encoder", sam.LAYOUTS, 1e-6, {"meta": "meta", "timm": "timm", "hf": "hf"}),
    "beit": Family("BEiT or data2vec-vision", beit.LAYOUTS, 1e-6, {"unilm": "unilm", "timm": "unilm", "hf": "hf"}),
    "imagebind": Family("ImageBind", imagebind.LAYOUTS, 1e-6, {}),
    "swin": Family("Swin transformer", swin.LAYOUTS, 1e-5, {"ctranspath": "ctranspath", "timm": "timm"}),
    "dinov3": Family("DINOv3", dinov3.LAYOUTS, 1e-5, {"hf": "hf"}),
}
LAYOUTS: tuple[Layout, ...] = tuple(layout for family in FAMILIES.values() for layout in family.layouts)


def check_family(family: str | None) -> None:
    """Raise UserError for a family that does not exist."""
    if family is not None and family not in FAMILIES:
        raise UserError(f"unknown family {family!r}; known are {', '.join(FAMILIES)}")


def layouts_of(family: str) -> dict[str, Layout]:
    """Return the layouts of a family by name."""
    return {layout.name: layout for layout in FAMILIES[family].layouts}


def title(layout: Layout) -> str:
    """Return what a layout is called in messages: its name and the family's."""
    return f"{layout.name} of {FAMILIES[layout.family].title}"
