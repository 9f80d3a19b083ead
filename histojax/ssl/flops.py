"""Floating-point operations of one training step, by formula: 2 for each multiply-add of its matrix products.

Left out is what is no product: crops, norms, softmax, the optimiser; together below a hundredth of a ViT-S step.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from histojax.models.layers import swiglu_hidden
from histojax.models.vit import ViTConfig
from histojax.ssl.heads import HeadConfig
from histojax.ssl.masks import upper_bound
from histojax.ssl.patch_targets import form_of
from histojax.ssl.recipe import Recipe
from histojax.ssl.targets import Scores
from histojax.ssl.terms import has_terms


@dataclasses.dataclass(frozen=True)
class Flops:
    """Of one step over a whole batch, on all devices together."""

    teacher: float  # backbone, global crops
    student: float  # backbone, forward, global and local crops
    backward: float  # of the student's backbone
    heads: float  # the MLPs of both networks, forward and backward
    prototypes: float  # scores of both networks, forward and backward
    recomputed: float  # formed again in the backward pass to save memory

    @property
    def model(self) -> float:
        """What the method asks for, whatever is recomputed: the numerator of a model FLOPs utilisation (MFU)."""
        return self.total - self.recomputed

    @property
    def total(self) -> float:
        """What the device is given to do."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class _Crop:
    """Products of one crop's way through one block, or in front of them (`embed`)."""

    embed: float
    linear: float  # qkv, projection, feed-forward
    last: float  # of these, the last one: its output is not needed backward
    scores: float  # queries with keys, and as many again for the values
    pairs: float  # low-rank pairs


def step_flops(recipe: Recipe, batch: int, devices: int = 1) -> Flops:
    """The operations of a step of `batch` images on so many devices, all together."""
    vit, images = recipe.vit, float(batch)
    large = _crop(vit, recipe.crops.global_px, recipe.train.rank)
    small = _crop(vit, recipe.crops.local_px, recipe.train.rank)
    local = recipe.crops.local_crops * has_terms(recipe, "local")
    kept = 1 - _mean_drop(vit)
    crops = ((large, 2 * images), (small, local * images))
    forward = [n * (c.embed + kept * vit.depth * _block(c)) for c, n in crops]
    heads, prototypes, again = _head_flops(recipe, batch, local)
    again += _targets_again(recipe, batch, devices)
    again += forward[0] * (recipe.accumulate > 1)  # tokens of the global crops, see ssl.accumulate
    return Flops(
        teacher=2 * images * (large.embed + vit.depth * _block(large)),
        student=sum(forward),
        backward=sum(n * _backward(recipe, c, kept) for c, n in crops),
        heads=heads,
        prototypes=prototypes,
        recomputed=again + sum(n * _recomputed(recipe, c, kept) for c, n in crops),
    )


def masked_tokens(recipe: Recipe, batch: int) -> int:
    """Places in the list of masked patches of a batch, those that only fill it up included."""
    patches = (recipe.crops.global_px // recipe.vit.patch) ** 2
    per_shard = upper_bound(2 * batch // recipe.shards, patches, recipe.mask_ratio, recipe.mask_probability)
    return recipe.shards * per_shard


def _crop(vit: ViTConfig, pixels: int, rank: int) -> _Crop:
    patches, d = (pixels // vit.patch) ** 2, vit.dim
    tokens = patches + vit.prefix
    hidden = vit.hidden or (swiglu_hidden(d) if vit.ffn == "swiglu" else 4 * d)
    first = 2 * hidden if vit.ffn == "swiglu" else hidden
    shapes = [(d, 3 * d), (d, d), (d, first), (hidden, d)]
    return _Crop(
        embed=2.0 * patches * 3 * vit.patch**2 * d,
        linear=sum(2.0 * tokens * a * b for a, b in shapes),
        last=2.0 * tokens * hidden * d,
        scores=2.0 * tokens**2 * d,
        pairs=sum(2.0 * tokens * (a + b) * rank for a, b in shapes),
    )


def _block(c: _Crop) -> float:
    return c.linear + 2 * c.scores + c.pairs


def _mean_drop(vit: ViTConfig) -> float:
    """The share of crops that stochastic depth leaves out of a block, averaged over blocks."""
    return vit.drop_path if vit.drop_path_uniform else vit.drop_path / 2


def _trained_blocks(recipe: Recipe) -> int:
    """Blocks that a backward pass goes through."""
    if recipe.train.kind == "lora" and not recipe.train.rank:
        return 0
    return recipe.vit.depth - recipe.train.first_blocks(recipe.vit.depth)


def _backward(recipe: Recipe, c: _Crop, kept: float) -> float:
    """Gradients of a crop: each product has two, of its input and its weights; frozen weights have none."""
    weights = recipe.train.kind in ("all", "last")
    block = (1 + weights) * c.linear + 4 * c.scores + 2 * c.pairs
    embed = c.embed if recipe.train.kind == "all" else 0.0  # pixels have no gradient
    return embed + kept * _trained_blocks(recipe) * block


def _recomputed(recipe: Recipe, c: _Crop, kept: float) -> float:
    """Products of a crop's blocks that are formed a second time, see models.vit._remat."""
    vit = recipe.vit
    values = vit.attention == "einsum" or vit.remat == "block"  # einsum divides by the sum afterwards
    scores = c.scores * (1 + values) if vit.remat != "none" or vit.attention not in ("einsum", "xla") else 0.0
    rest = c.linear - c.last if vit.remat == "block" else 0.0
    return kept * _trained_blocks(recipe) * (scores + rest)


def _head_flops(recipe: Recipe, batch: int, local: int) -> tuple[float, float, float]:
    """(MLPs, scores, scores formed again) of both networks' heads, forward and backward."""
    masked = masked_tokens(recipe, batch) * bool(recipe.loss.ibot_weight)
    heads = ((recipe.head, 2 * batch, local * batch), (recipe.ibot_head or recipe.head, masked, 0))
    mlps = scores = again = 0.0
    for head, both, student_only in heads:
        passes = both + 3 * (both + student_only)  # teacher; student forward and two gradients
        mlps += passes * _mlp(head)
        scores += passes * 2.0 * head.bottleneck * head.prototypes
        again += (both + student_only) * 2.0 * head.bottleneck * head.prototypes
    return mlps, scores, again


def _targets_again(recipe: Recipe, batch: int, devices: int) -> float:
    """The teacher's scores of masked patches, for each time that they are formed after the first."""
    head, masked = recipe.ibot_head or recipe.head, masked_tokens(recipe, batch) * bool(recipe.loss.ibot_weight)
    shapes = (1, masked // devices, head.bottleneck), (head.prototypes, head.bottleneck)
    on_one: list[Any] = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    form = form_of(dataclasses.replace(recipe, layout=None), Scores(*on_one))
    times = {"kept": 0, "formed": 2, "parts": 6 if recipe.loss.centering == "sinkhorn" else 2}[form]
    return times * 2.0 * masked * head.bottleneck * head.prototypes


def _mlp(head: HeadConfig) -> float:
    widths = [head.dim] + [head.hidden] * (head.layers - 1) + [head.bottleneck]
    return sum(2.0 * a * b for a, b in pairwise(widths))
