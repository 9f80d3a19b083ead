"""One step of DINOv2 as a pure function of arrays (Oquab et al. 2023; facebookresearch/dinov2, ssl_meta_arch).

Tensors keep the order (image, view, ...), so the image axis can be split over devices. The shards of a batch
stand for the devices of the reference: masks are drawn, KoLeo neighbours searched and the iBOT centre averaged
within each. They need not be the devices of this run, and the result depends on the shards alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from histojax.models.parts import merge
from histojax.parallel.compiler import compiler_options, needed_options
from histojax.parallel.mesh import AXES, BATCH
from histojax.ssl import health, precision
from histojax.ssl.accumulate import Parts, through_tokens
from histojax.ssl.augment import multi_crop, normalize, resize
from histojax.ssl.masks import MaskBatch, gather_patches, sample_masks
from histojax.ssl.optimizer import clip
from histojax.ssl.patch_targets import PatchTargets, patch_sinkhorn, patch_softmax
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState, finite
from histojax.ssl.targets import Centre, Scores, Targets, centred_softmax, sinkhorn
from histojax.ssl.terms import Pass, has_terms, weighted_terms

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
class Tokens:
    """Of n crops of each image."""

    cls: jax.Array  # (B, n, D)
    patches: jax.Array  # (B, n, N, D)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutput:
    """Targets and what the centres need of one step."""

    cls: Targets  # (B, 2, K) of each view's own class token
    patches: PatchTargets  # (shards, M, K) of the masked patches
    centres: dict[str, Centre]


def make_step(recipe: Recipe, mesh: Mesh | None = None) -> Any:
    """The step(state, images, key, schedule) -> (state, metrics), a jax.jit function; `state` is given away.

    images (B, P, P, 3) uint8; key the root key of the run, folded with the step inside; schedule the scalars of
    Schedules.at. Metrics are float32 scalars. Over a mesh of parallel.mesh, images are split over all devices, and
    the state lies on them as parallel.sharding says.
    """
    recipe = recipe.over(mesh)
    layout = recipe.layout

    def step(state: TrainState, images: jax.Array, key: jax.Array, schedule: dict) -> tuple[TrainState, Metrics]:
        crop_key, mask_key, drop_key = step_keys(key, state.step)
        with precision.of_step(recipe.vit.dtype, recipe.platform):
            views = make_views(recipe, images, crop_key, mask_key)
            return update(recipe, state, views, schedule, drop_key)

    options = compiler_options(recipe.platform)
    if layout is None:
        return jax.jit(step, donate_argnums=0, compiler_options=options)
    where = layout.state(jax.eval_shape(lambda: recipe.start(recipe.init(jax.random.key(0)))))
    shardings: dict[str, Any] = {
        "in_shardings": (where, layout.batch, layout.whole, layout.whole),
        "out_shardings": (where, layout.whole),
    }
    return jax.jit(step, donate_argnums=0, compiler_options=options, **shardings)


def step_keys(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """(3,) keys of one step: for its crops, its masks and its stochastic depth."""
    return jax.random.split(jax.random.fold_in(key, step), 3)


def make_views(recipe: Recipe, images: jax.Array, crop_key: jax.Array, mask_key: jax.Array) -> Views:
    """Crops and masks of uint8 images (B, P, P, 3). Each image's crops depend on its place in the batch, not on
    the device that makes them."""
    layout = recipe.layout

    def crop(images: jax.Array, first: jax.Array):
        return multi_crop(crop_key, images, first, recipe.crops, batching=recipe.batching)

    if layout is None:
        crops = crop(images, jnp.int32(0))
    else:
        local = images.shape[0] // layout.devices
        mapped = jax.shard_map(
            lambda x: crop(x, jax.lax.axis_index(AXES) * local),
            mesh=layout.mesh,
            in_specs=BATCH,
            out_specs=(BATCH, BATCH),
        )
        crops = mapped(images)
    grid = (recipe.crops.global_px // recipe.vit.patch,) * 2
    per_shard = 2 * images.shape[0] // recipe.shards
    masks = sample_masks(mask_key, recipe.shards, per_shard, grid, recipe.mask_ratio, recipe.mask_probability)
    return Views(crops[0], crops[1], masks)


def update(
    recipe: Recipe, state: TrainState, views: Views, schedule: dict, key: jax.Array
) -> tuple[TrainState, Metrics]:
    """(state, metrics) after one step on given views: loss, gradient, clip, AdamW, EMA.

    A step with a gradient that is not finite leaves the student and its moments as they are (metric "skipped");
    EMA, step count and schedules go on, as in the reference.
    """
    target, seen = teach(recipe, state.parameters("teacher"), state.centres, views, schedule["teacher_temp"])
    # the student begins when the targets are done: what balancing them needs is as large as what a pass keeps
    crops, target = after(views.global_crops, target, recipe.layout is not None)
    views = dataclasses.replace(views, global_crops=crops)
    before, teacher = state.networks["student"], state.networks["teacher"]
    gradients, terms = student_gradient(recipe, before, state.frozen, views, target, key)
    gradients, norms = clip(gradients, recipe.clip_norm)
    good = jnp.isfinite(terms["loss"]) & finite(norms)
    changes, moments = recipe.optimizer(before, schedule).update(gradients, state.moments, before)
    student, moments = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (optax.apply_updates(before, changes), moments),
        (before, state.moments),
    )
    teacher = optax.incremental_update(student, teacher, 1 - schedule["momentum"])
    metrics = {**terms, **seen, **norms, "skipped": 1.0 - good.astype(jnp.float32)}
    networks = {**state.networks, "student": student, "teacher": teacher}
    return TrainState(state.step + 1, networks, state.frozen, moments, target.centres), metrics


def teach(
    recipe: Recipe, teacher: Tree, centres: dict[str, Centre], views: Views, temp: jax.Array
) -> tuple[TeacherOutput, Metrics]:
    """The teacher's targets for both views and the masked patches, the centres to carry on, and signs of health."""
    tokens = Parts.of(recipe).map(lambda crops, _: look(recipe, teacher, crops), views.global_crops)
    cls, patches = tokens.cls, gather_patches(_flat(tokens.patches), views.masks)
    of_cls = Scores(*recipe.project(teacher, "dino_head", cls)).all()
    of_patches = Scores(*recipe.project(teacher, "ibot_head", patches))
    valid = (views.masks.weights > 0).astype(jnp.float32)
    if recipe.loss.centering == "sinkhorn":
        targets = sinkhorn(of_cls, temp), patch_sinkhorn(recipe, of_patches, temp, valid)
    else:
        used = {k: c.apply() for k, c in centres.items()}
        patch_targets, mean = patch_softmax(recipe, of_patches, temp, used["ibot"], valid)
        targets = centred_softmax(of_cls, temp, used["dino"]), patch_targets
        centres = {k: Centre(used[k], means) for k, means in (("dino", of_cls.mean((0, 1))), ("ibot", mean))}
    output = TeacherOutput(*targets, centres)
    probabilities = output.cls.probabilities()
    return output, {
        "feature_spread": health.feature_spread(cls),
        "teacher_entropy": health.entropy(probabilities).mean(),
        "prototype_use": health.prototype_use(probabilities),
    }


def student_gradient(
    recipe: Recipe, student: Tree, frozen: Tree, views: Views, target: TeacherOutput, key: jax.Array | None
) -> tuple[Tree, Metrics]:
    """(gradients, terms): of the total loss for what is trained of the student, and the weighted terms by name.

    The share of the local crops is differentiated when that of the global crops is done, so the activations of the
    two are never in memory together. In parts (`recipe.accumulate`) the result is the same to rounding, but for the
    rows that stochastic depth leaves out: so many of each part.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    parts, local_crops = Parts.of(recipe), views.local_crops.shape[1]

    def see(trainable: Tree, crops: jax.Array, masks: jax.Array | None, key: jax.Array | None) -> Tokens:
        return look(recipe, merge(trainable, frozen), crops, masks, key)

    def loss(trainable: Tree, tokens: Tokens, crops: str, cls: Targets) -> tuple[jax.Array, Metrics]:
        seen = (tokens.cls, _flat(tokens.patches), views.masks, local_crops, cls, target.patches)
        terms = weighted_terms(Pass(recipe, merge(trainable, frozen), *seen), crops)
        return sum(terms.values(), start=jnp.float32(0)), terms

    def of_local(part: tuple[jax.Array, Targets], key: jax.Array | None) -> tuple[Tree, Metrics]:
        """A part's share: terms of the local crops are means over images."""

        def share(trainable: Tree) -> tuple[jax.Array, Metrics]:
            found = loss(trainable, see(trainable, part[0], None, key), "local", part[1])
            return jax.tree.map(lambda x: x / parts.count, found)

        return jax.grad(share, has_aux=True)(student)

    masks = views.masks.masks.reshape(*views.global_crops.shape[:2], -1)
    crops = views.global_crops, masks
    gradients, terms = through_tokens(
        parts, see, lambda t, tokens: loss(t, tokens, "global", target.cls), student, crops, keys[0]
    )
    if local_crops and has_terms(recipe, "local"):
        local_views, (gradients, terms) = after(views.local_crops, (gradients, terms), recipe.layout is not None)
        more, local = parts.sum(of_local, (local_views, target.cls), keys[1])
        gradients, terms = jax.tree.map(jnp.add, gradients, more), terms | local
    return gradients, {"loss": sum(terms.values(), start=jnp.float32(0)), **terms}


def look(
    recipe: Recipe, parameters: Tree, crops: jax.Array, masks: jax.Array | None = None, key: jax.Array | None = None
) -> Tokens:
    """What a network makes of crops (B, n, H, W, 3), the patches hidden where `masks` (B, n, N) is true."""
    masks = None if masks is None else _flat(masks)
    tokens = recipe.backbone(parameters["backbone"], _flat(crops), masks, key=key, shards=recipe.shards)
    return Tokens(*(tokens[name].reshape(*crops.shape[:2], *tokens[name].shape[1:]) for name in ("cls", "patches")))


def after(x: jax.Array, done: Tree, split: bool = False) -> tuple[jax.Array, Tree]:
    """(x, done), where x is not there before every array of `done` is.

    On a GPU or TPU the barrier holds as long as what comes out of it is used, both sides of it. XLA:CPU drops
    barriers before it puts its work in order; what holds there is a dependence by arithmetic on a number of each
    array. Of arrays `split` over devices it is the sum: nobody has their first number without the others sending
    theirs.
    """
    x, done = jax.lax.optimization_barrier((x, done))

    def depend(x: jax.Array, done: Tree) -> jax.Array:
        number = jnp.sum if split else lambda leaf: jnp.ravel(leaf)[0]
        numbers = jnp.stack([jnp.isfinite(number(leaf)) for leaf in jax.tree.leaves(done)])
        return x + 0.0 * numbers.all().astype(x.dtype)

    return jax.lax.platform_dependent(x, done, cpu=depend, default=lambda x, done: x), done


def _flat(crops: jax.Array) -> jax.Array:
    return crops.reshape(-1, *crops.shape[2:])


def make_features(recipe: Recipe, mesh: Mesh | None = None) -> Callable:
    """The jitted f(backbone, images (N, P, P, 3) uint8) -> (N, D) float32, class tokens after the final norm.

    Tiles of another size than `features_px` are resized on the device, bicubic with antialiasing.
    """
    recipe = recipe.over(mesh)
    layout = recipe.layout

    def features(backbone: Tree, images: jax.Array) -> jax.Array:
        with precision.of_step(recipe.vit.dtype, recipe.platform):
            return recipe.backbone(backbone, normalize(resize(images, recipe.features_px), recipe.crops))["cls"]

    options = needed_options(recipe.platform)
    if layout is None:
        return jax.jit(features, compiler_options=options)
    return jax.jit(features, compiler_options=options, in_shardings=(None, layout.batch), out_shardings=layout.whole)
