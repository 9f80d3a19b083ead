"""One step of DINOv2 as a pure function of arrays (Oquab et al. 2023; facebookresearch/dinov2, ssl_meta_arch).

Tensors keep the order (image, view, ...), so the image axis can be split over devices. `groups` parts of the batch
stand for the devices of the reference: masks are drawn, KoLeo neighbours searched and the iBOT centre averaged
within each. They need not be the devices of this run, and the result depends on the groups alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from histojax.ssl import health, losses
from histojax.ssl.augment import multi_crop, normalize, resize
from histojax.ssl.heads import logits
from histojax.ssl.masks import MaskBatch, sample_masks
from histojax.ssl.optimizer import adamw, clip, freeze
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState, ema, finite, state_sharding
from histojax.ssl.targets import Centre, Targets, centred_softmax, masked_mean, sinkhorn

Tree = Any
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Views:
    """The inputs of one step after augmentation."""

    global_crops: jax.Array  # (B, 2, G, G, 3) float32, normalised
    local_crops: jax.Array  # (B, L, l, l, 3)
    masks: MaskBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutput:
    """Targets and what the centres need of one step."""

    cls: Targets  # (B, 2, K) of each view's own class token
    patches: Targets  # (groups, M, K) of the masked patches
    centres: dict[str, Centre]


def make_step(recipe: Recipe, mesh: Mesh | None = None, fsdp: bool = False) -> Any:
    """The step(state, images, key, schedule) -> (state, metrics), a jax.jit function; `state` is given away.

    images (B, P, P, 3) uint8; key the root key of the run, folded with the step inside; schedule the scalars of
    Schedules.at. Metrics are float32 scalars. Over a mesh with axis "data", images are split and the state is
    replicated, or split as well with `fsdp`.
    """

    def step(state: TrainState, images: jax.Array, key: jax.Array, schedule: dict) -> tuple[TrainState, Metrics]:
        crop_key, mask_key, drop_key = step_keys(key, state.step)
        views = make_views(recipe, images, crop_key, mask_key, mesh)
        return update(recipe, state, views, schedule, drop_key)

    options = _compiler_options(mesh.devices.flat[0].platform if mesh else jax.default_backend())
    if mesh is None or mesh.size == 1:
        return jax.jit(step, donate_argnums=0, compiler_options=options)
    split, whole = (NamedSharding(mesh, PartitionSpec(*a)) for a in (("data",), ()))
    shapes = jax.eval_shape(lambda: recipe.start(recipe.init(jax.random.key(0))))
    where = state_sharding(shapes, mesh, fsdp)
    shardings: dict[str, Any] = {"in_shardings": (where, split, whole, whole), "out_shardings": (where, whole)}
    return jax.jit(step, donate_argnums=0, compiler_options=options, **shardings)


def step_keys(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """(3,) keys of one step: for its crops, its masks and its stochastic depth."""
    return jax.random.split(jax.random.fold_in(key, step), 3)


def _compiler_options(platform: str) -> dict[str, str]:
    """XLA:CPU orders its work for concurrency unless told otherwise: here that gains no time and costs a third more
    memory (tools/bench_step.py). Empty where XLA has no such option."""
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def make_views(
    recipe: Recipe, images: jax.Array, crop_key: jax.Array, mask_key: jax.Array, mesh: Mesh | None = None
) -> Views:
    """Crops and masks of uint8 images (B, P, P, 3). Each image's crops depend on its place in the batch, not on
    the device that makes them."""

    def crop(images: jax.Array, first: jax.Array):
        return multi_crop(crop_key, images, first, recipe.crops, batching=recipe.batching)

    if mesh is None or mesh.size == 1:
        crops = crop(images, jnp.int32(0))
    else:
        local = images.shape[0] // mesh.size
        split = PartitionSpec("data")
        mapped = jax.shard_map(
            lambda x: crop(x, jax.lax.axis_index("data") * local),
            mesh=mesh,
            in_specs=split,
            out_specs=(split, split),
        )
        crops = mapped(images)
    grid = (recipe.crops.global_px // recipe.vit.patch,) * 2
    per_group = 2 * images.shape[0] // recipe.groups
    masks = sample_masks(mask_key, recipe.groups, per_group, grid, recipe.mask_ratio, recipe.mask_probability)
    return Views(crops[0], crops[1], masks)


def update(
    recipe: Recipe, state: TrainState, views: Views, schedule: dict, key: jax.Array
) -> tuple[TrainState, Metrics]:
    """(state, metrics) after one step on given views: loss, gradient, clip, AdamW, EMA.

    A step with a gradient that is not finite leaves the student and its moments as they are (metric "skipped");
    EMA, step count and schedules go on, as in the reference.
    """
    groups = recipe.groups_of(state.student)
    target, seen = teach(recipe, state, views, schedule["teacher_temp"])
    gradients, terms = student_gradient(recipe, state.student, views, target, key)
    gradients, norms = clip(gradients, groups, recipe.clip_norm)
    good = jnp.isfinite(terms["loss"]) & finite(norms)
    updated = adamw(state.student, gradients, state.moments, groups, schedule, *recipe.betas)
    student, moments = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, (state.student, state.moments))
    teacher = ema(state.teacher, student, schedule["momentum"])
    metrics = {**terms, **seen, **norms, "skipped": 1.0 - good.astype(jnp.float32)}
    return TrainState(state.step + 1, student, teacher, moments, target.centres), metrics


def teach(recipe: Recipe, state: TrainState, views: Views, temp: jax.Array) -> tuple[TeacherOutput, Metrics]:
    """The teacher's targets for both views and the masked patches, the centres to carry on, and what to watch."""
    images, views_per = views.global_crops.shape[:2]
    tokens = recipe.backbone(state.teacher["backbone"], _flat(views.global_crops))
    cls = tokens["cls"].reshape(images, views_per, -1)
    patches = gather_patches(tokens["patches"], views.masks)
    scores = {
        "dino": logits(*recipe.project(state.teacher, "dino_head", cls)),
        "ibot": logits(*recipe.project(state.teacher, "ibot_head", patches)),
    }
    valid = (views.masks.weights > 0).astype(jnp.float32)
    if recipe.loss.centering == "sinkhorn":
        targets = sinkhorn(scores["dino"], temp), sinkhorn(scores["ibot"], temp, valid)
        centres = state.centres
    else:
        used = {k: c.apply() for k, c in state.centres.items()}
        means = {"dino": scores["dino"].mean((0, 1)), "ibot": masked_mean(scores["ibot"], valid)}
        targets = (
            centred_softmax(scores["dino"], temp, used["dino"]),
            centred_softmax(scores["ibot"], temp, used["ibot"], valid),
        )
        centres = {k: Centre(used[k], means[k]) for k in used}
    output = jax.lax.stop_gradient(TeacherOutput(*targets, centres))
    probabilities = output.cls.probabilities()
    return output, {
        "feature_spread": health.feature_spread(cls),
        "teacher_entropy": health.entropy(probabilities).mean(),
        "prototype_use": health.prototype_use(probabilities),
    }


def student_gradient(
    recipe: Recipe, student: Tree, views: Views, target: TeacherOutput, key: jax.Array | None
) -> tuple[Tree, Metrics]:
    """(gradients, terms): of the total loss for the student, and the terms by name as they enter it, all float32.

    "*_reported" are half, as the reference logs them. The share of the local crops is differentiated when that of
    the global crops is done, so the activations of the two are never in memory together.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    groups = recipe.groups_of(student)

    def gradient_of(loss: Callable, student: Tree, key: jax.Array | None) -> tuple[Tree, Metrics]:
        return jax.grad(lambda s: loss(recipe, freeze(s, groups), views, target, key), has_aux=True)(student)

    gradients, terms = gradient_of(_global_loss, student, keys[0])
    if views.local_crops.shape[1]:
        views = dataclasses.replace(views, local_crops=_after(views.local_crops, gradients))
        more, local = gradient_of(_local_loss, student, keys[1])
        gradients, terms = jax.tree.map(jnp.add, gradients, more), terms | local
    half = {f"{name}_reported": terms[name] / 2 for name in ("ibot", "koleo")}
    return gradients, {"loss": sum(terms.values(), start=jnp.float32(0)), **terms, **half}


def _global_loss(
    recipe: Recipe, student: Tree, views: Views, target: TeacherOutput, key: jax.Array | None
) -> tuple[jax.Array, Metrics]:
    """(sum, terms) of what the global crops take part in: DINO across the two views, iBOT, KoLeo; weighted."""
    c, masks, images = recipe.loss, views.masks, len(views.global_crops)
    flat_masks = masks.masks.reshape(2 * images, -1)
    seen = recipe.backbone(student["backbone"], _flat(views.global_crops), flat_masks, **_how(recipe, key))
    cls = seen["cls"].reshape(images, 2, -1)
    z, prototypes = recipe.project(student, "dino_head", cls)
    swapped = jax.tree.map(lambda x: x[:, ::-1] if x.ndim > 1 else x, target.cls)
    across = losses.cross_entropy(z, prototypes, swapped, c.student_temp, _chunk(recipe, views))  # (B, 2)
    z, prototypes = recipe.project(student, "ibot_head", gather_patches(seen["patches"], masks))
    patches = losses.cross_entropy(z, prototypes, target.patches, c.student_temp, c.token_chunk)  # (groups, M)
    terms = {
        "dino_global": c.dino_weight * 2 / _pairs(views) * across.mean(),
        "ibot": c.ibot_weight * jnp.sum(patches * masks.weights) / (2 * images),
        "koleo": c.koleo_weight * _koleo(cls, recipe.groups, c.koleo_eps),
    }
    return sum(terms.values(), start=jnp.float32(0)), terms


def _local_loss(
    recipe: Recipe, student: Tree, views: Views, target: TeacherOutput, key: jax.Array | None
) -> tuple[jax.Array, Metrics]:
    """(value, terms) of DINO from each local crop to both global views; weighted."""
    c, (images, crops) = recipe.loss, views.local_crops.shape[:2]
    cls = recipe.backbone(student["backbone"], _flat(views.local_crops), **_how(recipe, key))["cls"]
    z, prototypes = recipe.project(student, "dino_head", cls.reshape(images, crops, -1))
    both = _sum_views(target.cls)
    values = losses.cross_entropy(z, prototypes, both, c.student_temp, _chunk(recipe, views), mass=2.0)  # (B, L)
    value = c.dino_weight * values.mean(0).sum() / _pairs(views)
    return value, {"dino_local": value}


def _after(x: jax.Array, gradients: Tree) -> jax.Array:
    """x, but not before the gradients are there. A barrier would say so, yet XLA:CPU drops it before it puts its work
    in order; what holds is an arithmetic dependence: zero times a float is not folded away."""
    last = jnp.ravel(gradients["backbone"]["patch_embed"]["bias"])[0]
    return x + 0.0 * jnp.isfinite(last).astype(x.dtype)


def _how(recipe: Recipe, key: jax.Array | None) -> dict[str, Any]:
    return {"key": key, "groups": recipe.groups, "frozen_blocks": recipe.frozen_blocks}


def _chunk(recipe: Recipe, views: Views) -> int:
    """Crops of each image to be scored at a time, so that about token_chunk tokens of a group are."""
    return max(1, recipe.loss.token_chunk * recipe.groups // len(views.global_crops))


def _pairs(views: Views) -> int:
    """Pairs of a student's and a teacher's crop; without local crops the reference still counts one more."""
    return 2 + max(2 * views.local_crops.shape[1], 1)


def _koleo(cls: jax.Array, groups: int, eps: float) -> jax.Array:
    """Sum over the two views, each view's rows compared within their group; (B, 2, D) -> scalar."""
    parts = cls.reshape(groups, -1, *cls.shape[1:]).swapaxes(1, 2)  # (groups, 2, b, D)
    values = jax.vmap(jax.vmap(lambda x: losses.koleo(x, eps)))(parts)
    return values.mean((0, 2)).sum()


def _sum_views(t: Targets) -> Targets:
    """(B, 1, K): the sum of the two views' targets, which every local crop has to meet."""
    both = t.probabilities().sum(1, keepdims=True)
    return Targets(both, jnp.ones_like(t.prototype_scale), jnp.ones_like(t.token_scale[:, :1]))


def gather_patches(patches: jax.Array, masks: MaskBatch) -> jax.Array:
    """(groups, M, D): the tokens at the masked places, from (2B, N, D) in the order (image, view)."""
    groups = masks.indices.shape[0]
    grouped = patches.reshape(groups, -1, patches.shape[-1])
    return jnp.take_along_axis(grouped, masks.indices[..., None], axis=1)


def _flat(crops: jax.Array) -> jax.Array:
    return crops.reshape(-1, *crops.shape[2:])


def make_features(recipe: Recipe, mesh: Mesh | None = None) -> Callable:
    """The jitted f(backbone, images (N, P, P, 3) uint8) -> (N, D) float32, class tokens after the final norm.

    Tiles of another size than `features_px` are resized on the device, bicubic with antialiasing.
    """

    def features(backbone: Tree, images: jax.Array) -> jax.Array:
        return recipe.backbone(backbone, normalize(resize(images, recipe.features_px), recipe.crops))["cls"]

    if mesh is None or mesh.size == 1:
        return jax.jit(features)
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(features, in_shardings=(None, split), out_shardings=NamedSharding(mesh, PartitionSpec()))
