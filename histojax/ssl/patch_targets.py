"""In what form the targets of the masked patches wait for the losses: they are by far the largest of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from histojax.ssl.targets import (
    FormedTargets,
    Scores,
    Targets,
    centred_softmax,
    centred_softmax_in_parts,
    masked_mean,
    sinkhorn,
    sinkhorn_in_parts,
)

if TYPE_CHECKING:
    from histojax.ssl.recipe import Recipe

PatchTargets = Targets | FormedTargets
KEPT_BYTES = 2**30  # of a kernel on each device, up to which it is kept without being asked
FORMS = {  # of a kernel (masked patches, prototypes)
    "auto": f"kept up to {KEPT_BYTES >> 30} GiB on each device, formed above",
    "kept": "it stays in memory until the losses of the global crops are done",
    "formed": "it is there while it is balanced, and formed again where the losses read it, a chunk at a time",
    "parts": "it never is in memory whole: each pass of the balancing forms it again too, a chunk at a time",
}


def form_of(recipe: Recipe, scores: Scores) -> str:
    """One of FORMS but "auto", for scores (R, n, K)."""
    if recipe.loss.targets != "auto":
        return recipe.loss.targets
    devices = recipe.layout.devices if recipe.layout else 1
    tokens = scores.z.shape[0] * scores.z.shape[1]
    return "kept" if 4 * tokens * len(scores.prototypes) <= KEPT_BYTES * devices else "formed"


def patch_sinkhorn(recipe: Recipe, scores: Scores, temp: jax.Array, valid: jax.Array) -> PatchTargets:
    """Balanced targets of scores (R, n, K), valid (R, n), in the form that the recipe wants."""
    form = form_of(recipe, scores)
    if form == "parts":
        return sinkhorn_in_parts(scores, temp, valid, recipe.loss.token_chunk)
    there = scores.all()
    kept = sinkhorn(there, temp, valid)
    if form == "kept":
        return kept
    centre = jnp.zeros((len(scores.prototypes),), jnp.float32)
    return FormedTargets(scores, temp, centre, (there / temp).max(-1), kept.prototype_scale, kept.token_scale)


def patch_softmax(
    recipe: Recipe, scores: Scores, temp: jax.Array, centre: jax.Array, valid: jax.Array
) -> tuple[PatchTargets, jax.Array]:
    """(targets of scores (R, n, K) about a centre (K,), masked mean (K,) of the scores)."""
    if form_of(recipe, scores) == "kept":
        all_scores = scores.all()
        return centred_softmax(all_scores, temp, centre, valid), masked_mean(all_scores, valid)
    return centred_softmax_in_parts(scores, temp, centre, valid, recipe.loss.token_chunk)
