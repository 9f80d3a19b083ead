"""What the cases of training share: the recipe of a case, its weights, and the names of the loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl.augment import CropConfig
from histojax.ssl.heads import HeadConfig
from histojax.ssl.recipe import LossConfig, Recipe
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.trees import resampling, vit_of

CENTERING = {"centering": "softmax", "sinkhorn_knopp": "sinkhorn"}
TOTAL = "total_backprop"


def has_passes(file: ArrayFile) -> bool:
    """Losses of single passes are recorded in it."""
    return f"step0/loss/{TOTAL}" in file.names


def has_trajectory(file: ArrayFile) -> bool:
    """Losses of several steps of training are recorded in it."""
    return f"loss/{TOTAL}" in file.names


def weights_of(file: ArrayFile, folder: Folder, prefix: str) -> Arrays:
    """The weights (`<prefix>...`) that have the same `case` in their meta as `file`."""
    holders = [f for f in folder.arrays if any(n.startswith(prefix) for n in f.names)]
    found = [f for f in holders if "case" in f.meta and f.meta["case"] == file.meta.get("case")]
    if len(found) != 1:
        others = ", ".join(f.shown for f in found or holders) or "no file"
        raise ValueError(
            f"case {file.meta.get('case')!r} needs one file of weights ({prefix}*) with the same case in its meta; "
            f"{len(found)} fit ({others})"
        )
    return found[0].arrays


def recipe_of(meta: dict, tensors: Mapping[str, np.ndarray]) -> Recipe:
    """The recipe of a case: sizes from its tensors, settings from its meta."""
    backbone = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    if meta["student"].get("drop_path_rate"):
        raise ValueError("stochastic depth was on: which samples the reference dropped is not recorded")
    vit = vit_of(backbone, meta["heads"], resampling(meta["student"]))

    def head(name: str) -> HeadConfig:
        c = meta[name.split("_")[0]]
        prototypes, bottleneck = tensors[f"{name}.last_layer.weight_v"].shape
        return HeadConfig(vit.dim, prototypes, bottleneck, c["head_hidden_dim"], c["head_nlayers"])

    return Recipe(
        vit=vit,
        head=head("dino_head"),
        ibot_head=head("ibot_head") if meta["ibot"]["separate_head"] else None,
        crops=CropConfig(),
        loss=_losses(meta),
        **_optimiser(meta.get("optim")),
    )


def _losses(meta: dict) -> LossConfig:
    return LossConfig(
        centering=CENTERING[meta["centering"]],
        dino_weight=meta["dino"]["loss_weight"],
        ibot_weight=meta["ibot"]["loss_weight"],
        koleo_weight=meta["dino"]["koleo_loss_weight"],
        koleo_eps=meta["koleo_pairwise_eps"],
        token_chunk=32,  # several chunks, so that the chunking is part of what is compared
    )


def _optimiser(optim: dict | None) -> dict[str, Any]:
    """Fields of the recipe; a single pass has no optimiser."""
    if optim is None:
        return {}
    return {
        "layer_decay": optim["layerwise_decay"],
        "patch_embed_lr": optim["patch_embed_lr_mult"],
        "clip_norm": optim["clip_grad"],
        "betas": (optim["adamw_beta1"], optim["adamw_beta2"]),
    }


def reported_terms(metrics: Mapping[str, Any], loss: LossConfig) -> dict[str, np.ndarray]:
    """Our terms under the reference's names, as it reports them: DINO and iBOT before their weights, KoLeo after its
    own, and KoLeo and iBOT at half of that. A term without a weight is zero."""

    def term(name: str) -> np.ndarray:
        return np.asarray(metrics.get(name, np.zeros_like(metrics["loss"])), np.float64)

    return {
        "dino_local_crops_loss": term("dino_local") / (loss.dino_weight or 1.0),
        "dino_global_crops_loss": term("dino_global") / (loss.dino_weight or 1.0),
        "koleo_loss": term("koleo") / 2,
        "ibot_loss": term("ibot") / 2 / (loss.ibot_weight or 1.0),
        TOTAL: term("loss"),
    }


def on_device(tree: Any) -> Any:
    """The tree with jax arrays."""
    return jax.tree.map(jnp.asarray, tree)
