"""Losses, targets, centres and gradients of single passes, and trajectories of several steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl import losses, step
from histojax.ssl.augment import CropConfig
from histojax.ssl.heads import HeadConfig, logits
from histojax.ssl.masks import MaskBatch
from histojax.ssl.recipe import LossConfig, Recipe
from histojax.ssl.state import TrainState
from histojax.ssl.targets import Centre
from parity_cases.check import Check, archives, below, compare, worst
from parity_cases.trees import module_tensors, module_trees, vit_of

TERMS = {  # the reference's name: ours. It reports KoLeo and iBOT at half of what enters the total
    "dino_local_crops_loss": "dino_local",
    "dino_global_crops_loss": "dino_global",
    "koleo_loss": "koleo_reported",
    "ibot_loss": "ibot_reported",
    "total_backprop": "loss",
}


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Expected arrays, weights and batches lie in files of their own; meta `case` and sizes tie them together."""
    weights, batches, expected = {}, {}, []
    for path, data, meta in archives(folder):
        arrays = {k: data[k] for k in data.files}
        if any(k.startswith(("student.", "init/")) for k in arrays):
            weights[meta["case"]] = arrays
        if "step0/global_crops_i8" in arrays:
            batches[path.stem] = (arrays, meta)
        if "step0/loss/total_backprop" in arrays or "loss/total_backprop" in arrays:
            expected.append((path.stem, arrays, meta))
    for name, want, meta in expected:
        params = weights[meta["case"]]
        views = _views_of(name, params, batches)
        run = _losses if "step0/loss/total_backprop" in want else _trajectory
        yield name, partial(run, name, want, meta, params, views)


def _views_of(name: str, params: dict, batches: dict) -> list[tuple[step.Views, dict]]:
    """The batch file whose masks fit the stored position grid; of several, the one named most alike."""
    rows = next(v for k, v in params.items() if k.endswith("backbone.pos_embed")).shape[1] - 1
    fitting = [b for b, (arrays, _) in batches.items() if arrays["step0/masks"].shape[1] == rows] or list(batches)
    best = max(fitting, key=lambda b: len(_common(b, name)))
    arrays, meta = batches[best]
    count = 1 + max(int(m[1]) for k in arrays if (m := re.match(r"step(\d+)/", k)))
    return [
        (
            make_views({k: arrays[f"step{i}/{k}"] for k in _INPUTS}, meta["crop_scale"]),
            below_dict(arrays, f"step{i}/"),
        )
        for i in range(count)
    ]


_INPUTS = ("global_crops_i8", "local_crops_i8", "masks", "upperbound")


def _common(a: str, b: str) -> str:
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]


def below_dict(arrays: dict, prefix: str) -> dict:
    """Entries whose name begins with `prefix`, by the rest of the name."""
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def make_views(arrays: dict[str, np.ndarray], scale: float) -> step.Views:
    """Crop-major int8 crops (2B, 3, H, W) and masks (2B, N) as the step takes them: (B, 2, H, W, 3), one group."""
    masks = arrays["masks"]
    images = masks.shape[0] // 2

    def crops(name: str) -> jnp.ndarray:
        x = arrays[name].astype(np.float32) / scale
        return jnp.asarray(x.reshape(-1, images, *x.shape[1:]).transpose(1, 0, 3, 4, 2))

    ours = masks.reshape(2, images, -1).swapaxes(0, 1).reshape(2 * images, -1)  # (image, view)
    bound = int(arrays["upperbound"])
    indices = np.flatnonzero(ours)
    weights = np.repeat(1 / np.maximum(ours.sum(1), 1), ours.sum(1))
    padded = [np.pad(a, (0, bound - len(a)))[None] for a in (indices.astype(np.int32), weights.astype(np.float32))]
    batch = MaskBatch(*map(jnp.asarray, (ours[None], *padded)), jnp.asarray([len(indices)], jnp.int32))
    return step.Views(crops("global_crops_i8"), crops("local_crops_i8"), batch)


def recipe_of(meta: dict, tensors: dict[str, np.ndarray], prefix: str) -> Recipe:
    """The recipe of a case: sizes from its tensors, settings from its meta."""
    names = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    backbone = {k.removeprefix("backbone."): v for k, v in names.items() if k.startswith("backbone.")}
    vit = vit_of(backbone, meta["heads"], meta["student"]["interpolate_antialias"])
    optim = meta.get("optim", {})

    def head(name: str) -> HeadConfig:
        c = meta[name.split("_")[0]]
        prototypes, bottleneck = names[f"{name}.last_layer.weight_v"].shape
        return HeadConfig(vit.dim, prototypes, bottleneck, c["head_hidden_dim"], c["head_nlayers"])

    return Recipe(
        vit=vit,
        head=head("dino_head"),
        ibot_head=head("ibot_head") if meta["ibot"]["separate_head"] else None,
        crops=CropConfig(),
        loss=LossConfig(
            centering="softmax" if meta["centering"] == "centering" else "sinkhorn",
            dino_weight=meta["dino"]["loss_weight"],
            ibot_weight=meta["ibot"]["loss_weight"],
            koleo_weight=meta["dino"]["koleo_loss_weight"],
            koleo_eps=meta["koleo_pairwise_eps"],
            token_chunk=32,  # several chunks, so that the chunking is part of what is compared
        ),
        layer_decay=optim.get("layerwise_decay", 0.9),
        patch_embed_lr=optim.get("patch_embed_lr_mult", 0.2),
        clip_norm=optim.get("clip_grad", 3.0),
        betas=(optim.get("adamw_beta1", 0.9), optim.get("adamw_beta2", 0.999)),
    )


def _losses(name: str, want: dict, meta: dict, params: dict, views: list) -> Iterator[Check]:
    recipe = recipe_of(meta, params, "student.")
    trees = {who: _arrays(module_trees(below_dict(params, f"{who}."))) for who in ("student", "teacher")}
    state = recipe.start(trees["student"], trees["teacher"])
    if meta["centering"] == "centering":
        centres = {k: Centre.start(jnp.asarray(params[f"input/center_{k}"])) for k in ("dino", "ibot")}
        state = TrainState(state.step, state.student, state.teacher, state.moments, centres)
    for i in range(len([k for k in want if re.fullmatch(r"step\d+/loss/total_backprop", k)])):
        seen, inputs = views[i]
        expected = below_dict(want, f"step{i}/")
        state, checks = _one_pass(f"{name} step {i}", recipe, state, seen, inputs, expected)
        yield from checks
    for k in ("dino", "ibot"):
        if f"final/center/{k}_buffer_after_apply" in want and meta["centering"] == "centering":
            expected_centre = want[f"final/center/{k}_buffer_after_apply"]
            yield compare(name, f"{k} centre applied", state.centres[k].apply(), expected_centre, atol=1e-6)


@partial(jax.jit, static_argnums=0)
def _run(recipe: Recipe, state: TrainState, views: step.Views, temp: jax.Array) -> dict[str, Any]:
    """Everything a pass computes, in one program."""
    target, _ = step.teach(recipe, state, views, temp)
    gradients, terms = step.student_gradient(recipe, state.student, views, target, None)
    scores = {who: _scores(recipe, getattr(state, who), views, who == "student") for who in ("student", "teacher")}
    return {"target": target, "gradients": gradients, "terms": terms, "scores": scores}


def _scores(recipe: Recipe, params: Any, views: step.Views, masked: bool) -> tuple[jax.Array, jax.Array]:
    """Scores of class tokens (B, 2, K) and masked patches (M, K)."""
    b = views.global_crops.shape[0]
    flat = views.masks.masks.reshape(2 * b, -1) if masked else None
    crops = views.global_crops.reshape(2 * b, *views.global_crops.shape[2:])
    tokens = recipe.backbone(params["backbone"], crops, flat)
    cls = logits(*recipe.project(params, "dino_head", tokens["cls"].reshape(b, 2, -1)))
    patches = step.gather_patches(tokens["patches"], views.masks)
    return cls, logits(*recipe.project(params, "ibot_head", patches))[0]


def _one_pass(name: str, recipe: Recipe, state: TrainState, views: step.Views, inputs: dict, want: dict):
    out = _run(recipe, state, views, jnp.float32(inputs["teacher_temp"]))
    target, terms = out["target"], out["terms"]
    checks = [compare(name, ours, terms[ours], want[f"loss/{theirs}"], rtol=2e-5) for theirs, ours in TERMS.items()]
    checks += _target_checks(name, views, target, want)
    checks += _score_checks(name, out["scores"], _order(views), want)
    for k, centre in target.centres.items():
        if recipe.loss.centering == "softmax":
            checks.append(compare(name, f"{k} centre", centre.value, want[f"center/{k}_buffer_after_step"], atol=1e-6))
            pending = want[f"center/{k}_pending_batch_mean"]
            checks.append(compare(name, f"{k} pending mean", centre.pending, pending, atol=1e-6))
    checks += _gradient_checks(name, module_tensors(out["gradients"]), want)
    checks += _koleo_checks(name, want)
    return TrainState(state.step, state.student, state.teacher, state.moments, target.centres), checks


def _target_checks(name: str, views: step.Views, target: step.TeacherOutput, want: dict) -> list[Check]:
    cls = np.asarray(target.cls.probabilities())  # (B, 2, K)
    patches = np.asarray(target.patches.probabilities())[0][_order(views)]
    swapped = np.concatenate([cls[:, 1], cls[:, 0]])
    checks = []
    for what, ours, key in (("class", swapped, "teacher_cls_probs"), ("patch", patches, "teacher_patch_probs")):
        expected = want[f"mid/{key}"]
        rows = ours.sum(-1)
        checks.append(compare(name, f"{what} targets", ours, expected, rtol=2e-5, atol=2e-5 * expected.max()))
        checks.append(compare(name, f"{what} target row sums", rows, expected.sum(-1), rtol=2e-5))
    return checks


def _order(views: step.Views) -> np.ndarray:
    """Places of our masked patches, which are in the order (image, view), in the reference's order (view, image)."""
    masks = np.asarray(views.masks.masks)[0]
    crops, patches = masks.shape
    index = np.flatnonzero(masks)
    crop = index // patches
    theirs = (crop % 2 * (crops // 2) + crop // 2) * patches + index % patches
    return np.argsort(theirs)


def _score_checks(name: str, scores: dict, order: np.ndarray, want: dict) -> list[Check]:
    """Rows of class scores are in the reference's order: both views of the student, of the teacher crop 2 first."""
    checks = []
    for who, key, swap in (("student", "student_global_logits", 0), ("teacher", "teacher_cls_logits", 1)):
        cls, patches = scores[who]
        rows = jnp.concatenate([cls[:, swap], cls[:, 1 - swap]])
        checks.append(compare(name, f"{who} class scores", rows, want[f"mid/{key}"], atol=2e-5))
        checks.append(compare(name, f"{who} patch scores", patches[order], want[f"mid/{who}_patch_logits"], atol=2e-5))
    return checks


def _gradient_checks(name: str, ours: dict[str, np.ndarray], want: dict) -> list[Check]:
    full = below_dict(want, "grad/")
    tensors = [compare(name, k, ours[k], g, norm=1e-4) for k, g in full.items()]
    norms = []
    for k, norm in below_dict(want, "gradnorm/").items():
        expected = max(float(norm), 0.0)  # -1 stands for a parameter that no gradient reaches
        norms.append(compare(name, k, np.linalg.norm(ours[k]), expected, rtol=1e-4, atol=1e-7))
    return [worst(name, "gradients", tensors), worst(name, "gradient norms", norms)]


def _koleo_checks(name: str, want: dict) -> list[Check]:
    checks = []
    for key, expected in want.items():
        if key.startswith("koleo_eps"):
            eps = float(key.removeprefix("koleo_eps"))
            inputs = [want[f"mid/koleo_in_{v}"] for v in range(len(expected))]
            ours = [losses.koleo(jnp.asarray(x), eps).mean() for x in inputs]
            checks.append(compare(name, f"koleo with epsilon {eps:g}", ours, expected, rtol=2e-5))
    return checks


def _trajectory(name: str, want: dict, meta: dict, params: dict, views: list) -> Iterator[Check]:
    recipe = recipe_of(meta, params, "init/")
    state = recipe.start(_arrays(module_trees(below_dict(params, "init/"))))
    advance = jax.jit(partial(step.update, recipe, key=jax.random.key(0)))
    history: list[dict] = []
    for i in range(len(want["loss/total_backprop"])):
        table = {ours: np.float32(want[f"sched/{theirs}"][i]) for ours, theirs in SCHEDULE.items()}
        state, metrics = advance(state, views[i][0], table)
        history.append({k: float(v) for k, v in metrics.items()})
        if i == 0:
            yield _snapshot(name, "after step 0", state, below_dict(want, "after_step0/"), {})
    for theirs, ours in TERMS.items():
        yield compare(name, f"{ours} at each step", [h[ours] for h in history], want[f"loss/{theirs}"], rtol=1e-4)
    for module, expected in below_dict(want, "grad_norm_before_clip/").items():
        yield compare(
            name, f"gradient norm, {module}", [h[f"grad_norm/{module}"] for h in history], expected, rtol=1e-4
        )
    yield _snapshot(name, "final parameters", state, below_dict(want, "final/"), below_dict(want, "noise/"))
    if meta["centering"] == "centering":
        for k, expected in below_dict(want, "final_center_buffer/").items():
            yield compare(name, f"{k} centre at the end", state.centres[k].value, expected, atol=1e-6)


SCHEDULE = {
    "lr": "lr",
    "last_layer_lr": "last_layer_lr",
    "weight_decay": "wd",
    "momentum": "momentum",
    "teacher_temp": "teacher_temp",
}


def _snapshot(name: str, what: str, state: TrainState, expected: dict, noise: dict) -> Check:
    """Parameters within 1e-5, or three times the reference's own float32 noise; the keys' bias is left out, whose
    gradient is zero but for rounding, which Adam turns into steps of full size."""
    ours = {f"student.{k}": v for k, v in module_tensors(state.student).items()}
    ours |= {f"teacher.{k}": v for k, v in module_tensors(state.teacher).items()}
    checks = []
    for k, value in expected.items():
        atol = max(1e-5, 3 * noise[k][0] if k in noise else 0.0)
        a, b = ours[k], value
        if k.endswith("attn.qkv.bias"):
            a, b = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (a, b))
        checks.append(compare(name, k, a, b, atol=atol))
    return worst(name, what, checks)


def _arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


__all__ = ["archives", "below", "cases"]
