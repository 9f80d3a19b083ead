"""The terms of the loss, a row each: adding one is a function, a row here and a weight in the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from histojax.parallel.mesh import BATCH, WHOLE
from histojax.ssl import losses
from histojax.ssl.masks import MaskBatch, gather_patches
from histojax.ssl.patch_targets import PatchTargets
from histojax.ssl.targets import Targets

if TYPE_CHECKING:
    from histojax.ssl.recipe import Recipe

Tree = Any


@dataclasses.dataclass(frozen=True)
class Pass:
    """What the terms may look at after the student has seen the crops of one kind, global or local."""

    recipe: Recipe
    student: Tree  # all its parameters
    cls: jax.Array  # (B, n, D): class tokens of the n crops of each image
    patches: jax.Array  # (B * n, N, D): patch tokens
    masks: MaskBatch
    local_crops: int  # of each image
    cls_targets: Targets  # (B, 2, K) of each global crop's own class token
    patch_targets: PatchTargets  # (shards, M, K) of the masked patches

    @property
    def pairs(self) -> int:
        """Pairs of a student's and a teacher's crop; without local crops the reference still counts one more."""
        return 2 + max(2 * self.local_crops, 1)

    @property
    def chunk(self) -> int:
        """Crops of each image to be scored at a time, so that about token_chunk tokens of a shard are."""
        return max(1, self.recipe.loss.token_chunk * self.recipe.shards // len(self.cls))


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the loss: `weight` times `value`, left out where the weight is 0."""

    name: str  # of its metric and on the progress line
    weight: str  # a field of LossConfig, and the leaf loss.<weight> of the configuration
    crops: str  # the pass that it belongs to: "global" or "local"
    value: Callable[[Pass], jax.Array]  # float32 scalar before its weight
    label: str  # in the legend of the curves
    panel: str = "Loss"  # of the curves


def cross_entropies(
    p: Pass, head: str, tokens: jax.Array, targets: PatchTargets, chunk: int, mass: float = 1.0
) -> jax.Array:
    """(R, n): losses.cross_entropy of tokens (R, n, D), projected by a head.

    Over several devices each looks at its own rows, and the gradients of the prototypes are added up once, at the
    end: left to itself XLA would add those of every chunk.
    """
    z, prototypes = p.recipe.project(p.student, head, tokens)

    def loss(z: jax.Array, prototypes: jax.Array, targets: PatchTargets) -> jax.Array:
        return losses.cross_entropy(z, prototypes, targets, p.recipe.loss.student_temp, chunk, mass)

    layout = p.recipe.layout
    if layout is None or len(z) % layout.devices:
        return loss(z, prototypes, targets)
    return layout.by_rows(loss, BATCH, WHOLE, targets.places(BATCH, WHOLE))(z, prototypes, targets)


def dino_global(p: Pass) -> jax.Array:
    """DINO from each global crop to the other one."""
    swapped = jax.tree.map(lambda x: x[:, ::-1] if x.ndim > 1 else x, p.cls_targets)
    across = cross_entropies(p, "dino_head", p.cls, swapped, p.chunk)  # (B, 2)
    return 2 / p.pairs * across.mean()


def dino_local(p: Pass) -> jax.Array:
    """DINO from each local crop to both global crops."""
    both = p.cls_targets.probabilities().sum(1, keepdims=True)  # (B, 1, K): every local crop has to meet their sum
    targets = Targets(both, jnp.ones_like(p.cls_targets.prototype_scale), jnp.ones(both.shape[:-1], jnp.float32))
    values = cross_entropies(p, "dino_head", p.cls, targets, p.chunk, mass=2.0)  # (B, L)
    return values.mean(0).sum() / p.pairs


def ibot(p: Pass) -> jax.Array:
    """iBOT: each masked patch to the teacher's view of it, averaged over the patches of a crop, then over crops."""
    tokens = gather_patches(p.patches, p.masks)
    values = cross_entropies(p, "ibot_head", tokens, p.patch_targets, p.recipe.loss.token_chunk)  # (shards, M)
    return jnp.sum(values * p.masks.weights) / (2 * len(p.cls))


def among_images(loss: Callable[[jax.Array, float], jax.Array], constant: str) -> Callable[[Pass], jax.Array]:
    """The value of a loss f(rows (b, D), constant) -> (b,) that compares the class tokens of different images.

    Summed over the two views; each view's rows are compared within their shard of the batch. `constant` is a field
    of LossConfig.
    """

    def value(p: Pass) -> jax.Array:
        parts = p.cls.reshape(p.recipe.shards, -1, *p.cls.shape[1:]).swapaxes(1, 2)  # (shards, 2, b, D)
        values = jax.vmap(jax.vmap(lambda x: loss(x, getattr(p.recipe.loss, constant))))(parts)
        return values.mean((0, 2)).sum()

    return value


TERMS = (
    Term("dino_global", "dino_weight", "global", dino_global, "DINO global"),
    Term("dino_local", "dino_weight", "local", dino_local, "DINO local"),
    Term("ibot", "ibot_weight", "global", ibot, "iBOT"),
    Term("koleo", "koleo_weight", "global", among_images(losses.koleo, "koleo_eps"), "KoLeo"),
    Term("kde", "kde_weight", "global", among_images(losses.kde, "kde_kappa"), "KDE"),
)
NAMES = tuple(term.name for term in TERMS)


def weighted_terms(p: Pass, crops: str) -> dict[str, jax.Array]:
    """{name: weighted value} of the terms of one kind of crops that have a weight."""
    weights = {term: getattr(p.recipe.loss, term.weight) for term in TERMS if term.crops == crops}
    return {term.name: weight * term.value(p) for term, weight in weights.items() if weight}


def has_terms(recipe: Recipe, crops: str) -> bool:
    """Whether any term looks at crops of this kind."""
    return any(term.crops == crops and getattr(recipe.loss, term.weight) for term in TERMS)
