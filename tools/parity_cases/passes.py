"""Losses, targets, centres and gradients of single passes over recorded inputs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.ssl import losses, step
from histojax.ssl.heads import logits
from histojax.ssl.masks import gather_patches
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState
from histojax.ssl.targets import Centre
from parity_cases.batches import inputs_of, views_of
from parity_cases.check import Check, compare, same, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.runs import TOTAL, has_passes, on_device, recipe_of, reported_terms, weights_of
from parity_cases.trees import module_tensors, module_trees

LOSS, SCORE, CENTRE, GRADIENT = 2e-5, 2e-5, 1e-6, 1e-4
STALE = "Sinkhorn-Knopp takes no mean of the batch; the reference leaves there what an earlier run put"


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with `step<i>/loss/total_backprop`; weights and inputs lie in files of their own."""
    if has_passes(file):
        yield file.name, partial(_passes, file, folder)


def _passes(file: ArrayFile, folder: Folder) -> Iterator[Check]:
    want, params = file.arrays, weights_of(file, folder, "student.")
    recipe = recipe_of(file.meta, dict(params.below("student.")))
    inputs = inputs_of(file, folder)
    state = _start(recipe, params)
    for i in range(sum(1 for k in want if re.fullmatch(rf"step\d+/loss/{TOTAL}", k))):
        name, expected = f"{file.name} step {i}", want.below(f"step{i}/")
        views = views_of(inputs, i)
        out = _run(recipe, state, views, jnp.float32(inputs.arrays[f"step{i}/teacher_temp"]))
        yield from _loss_checks(name, recipe, out, expected, want.below(f"float64/step{i}/"))
        yield from _target_checks(name, views, out["target"], expected.below("mid/"))
        yield from _score_checks(name, views, out["scores"], expected.below("mid/"))
        yield from _centre_checks(name, recipe, out["target"].centres, expected.below("center/"))
        yield from _koleo_checks(name, expected)
        state = dataclasses.replace(state, centres=out["target"].centres)
    for k, buffer in want.below("final/center/").items():
        loss = k.split("_")[0]
        yield compare(file.name, f"{loss} centre applied", state.centres[loss].apply(), buffer.reshape(-1), atol=CENTRE)


def _start(recipe: Recipe, params: Arrays) -> TrainState:
    """The state before the first pass; centres are zero unless they are recorded."""
    trees = {who: on_device(module_trees(params.below(f"{who}."))) for who in ("student", "teacher")}
    state = recipe.start(trees["student"], trees["teacher"])
    centres = dict(state.centres)
    for k, value in params.below("input/center_").items():
        centres[k] = Centre.start(jnp.asarray(value.reshape(-1)))
    return dataclasses.replace(state, centres=centres)


@partial(jax.jit, static_argnums=0)
def _run(recipe: Recipe, state: TrainState, views: step.Views, temp: jax.Array) -> dict[str, Any]:
    """Everything a pass computes, in one program."""
    target, _ = step.teach(recipe, state.parameters("teacher"), state.centres, views, temp)
    gradients, terms = step.student_gradient(recipe, state.networks["student"], state.frozen, views, target, None)
    scores = {who: _scores(recipe, state.parameters(who), views, who == "student") for who in state.networks}
    return {"target": target, "gradients": gradients, "terms": terms, "scores": scores}


def _scores(recipe: Recipe, params: Any, views: step.Views, masked: bool) -> dict[str, jax.Array]:
    """Scores of class tokens (B, 2, K), masked patches (M, K) and local crops (B, L, K), class tokens (B, 2, D)."""
    b = views.global_crops.shape[0]
    flat = views.masks.masks.reshape(2 * b, -1) if masked else None
    tokens = recipe.backbone(params["backbone"], _flat(views.global_crops), flat)
    cls = tokens["cls"].reshape(b, 2, -1)
    patches = gather_patches(tokens["patches"], views.masks)
    out = {"tokens": cls, "cls": logits(*recipe.project(params, "dino_head", cls))}
    out["patches"] = logits(*recipe.project(params, "ibot_head", patches))[0]
    if masked and views.local_crops.shape[1]:
        local = recipe.backbone(params["backbone"], _flat(views.local_crops))["cls"].reshape(b, -1, cls.shape[-1])
        out["local"] = logits(*recipe.project(params, "dino_head", local))
    return out


def _flat(crops: jax.Array) -> jax.Array:
    return crops.reshape(-1, *crops.shape[2:])


def _loss_checks(name: str, recipe: Recipe, out: dict, want: Arrays, double: Arrays) -> Iterator[Check]:
    """Terms and gradients, against the reference in float32 and, where it is recorded, in float64."""
    terms, gradients = reported_terms(out["terms"], recipe.loss), module_tensors(out["gradients"])
    for label, recorded in (("", want), ("float64 ", double)):
        for theirs, ours in terms.items():
            if f"loss/{theirs}" in recorded:
                yield compare(name, label + theirs, ours, recorded[f"loss/{theirs}"], rtol=LOSS)
        yield from _gradient_checks(name, label, gradients, recorded)


def _gradient_checks(name: str, label: str, ours: Mapping[str, np.ndarray], want: Arrays) -> Iterator[Check]:
    tensors = [compare(name, k, ours.get(k, ()), g, norm=GRADIENT) for k, g in want.below("grad/").items()]
    yield from worst(name, label + "gradients", tensors)
    norms = want.below("gradnorm/")
    if not norms:
        return
    yield same(name, label + "parameters with a gradient", set(norms) ^ set(ours))
    checks = []
    for k in set(norms) & set(ours):
        expected = max(float(norms[k]), 0.0)  # -1 stands for a parameter that no gradient reaches
        checks.append(compare(name, k, np.linalg.norm(ours[k]), expected, rtol=GRADIENT, atol=1e-7))
    yield from worst(name, label + "gradient norms", checks)


def _target_checks(name: str, views: step.Views, target: step.TeacherOutput, want: Arrays) -> Iterator[Check]:
    cls = np.asarray(target.cls.probabilities())  # (B, 2, K)
    patches = np.asarray(target.patches.probabilities())[0][_order(views)]
    swapped = np.concatenate([cls[:, 1], cls[:, 0]])
    for what, ours, key in (("class", swapped, "teacher_cls_probs"), ("patch", patches, "teacher_patch_probs")):
        if key in want:
            expected = want[key]
            yield compare(name, f"{what} targets", ours, expected, rtol=LOSS, atol=1e-30)
            yield compare(name, f"{what} target row sums", ours.sum(-1), expected.sum(-1), rtol=LOSS)


def _order(views: step.Views) -> np.ndarray:
    """Places of our masked patches, which are in the order (image, view), in the reference's order (view, image)."""
    masks = np.asarray(views.masks.masks)[0]
    crops, patches = masks.shape
    index = np.flatnonzero(masks)
    crop = index // patches
    theirs = (crop % 2 * (crops // 2) + crop // 2) * patches + index % patches
    return np.argsort(theirs)


def _score_checks(name: str, views: step.Views, scores: dict, want: Arrays) -> Iterator[Check]:
    """Rows are in the reference's order: all images' first crop, then all second ones; of the teacher crop 2 first."""
    order, student, teacher = _order(views), scores["student"], scores["teacher"]

    def rows(x: jax.Array) -> np.ndarray:
        return np.asarray(x).swapaxes(0, 1).reshape(-1, x.shape[-1])

    ours = {
        "student_global_logits": rows(student["cls"]),
        "teacher_cls_logits": rows(teacher["cls"][:, ::-1]),
        "student_patch_logits": student["patches"][order],
        "teacher_patch_logits": teacher["patches"][order],
        **{f"koleo_in_{v}": student["tokens"][:, v] for v in (0, 1)},
    }
    if "local" in student:
        ours["student_local_logits"] = rows(student["local"])
    for key, value in ours.items():
        if key in want:
            yield compare(name, key, value, want[key], atol=SCORE)


def _centre_checks(name: str, recipe: Recipe, centres: dict[str, Centre], want: Arrays) -> Iterator[Check]:
    """With Sinkhorn-Knopp the centres stay what they were."""
    for k, centre in centres.items():
        buffer, pending = f"{k}_buffer_after_step", f"{k}_pending_batch_mean"
        if buffer in want:
            yield compare(name, f"{k} centre", centre.value, want[buffer].reshape(-1), atol=CENTRE)
        if pending in want and recipe.loss.centering == "sinkhorn":
            want.aside([pending], STALE)
        elif pending in want:
            yield compare(name, f"{k} pending mean", centre.pending, want[pending].reshape(-1), atol=CENTRE)


def _koleo_checks(name: str, want: Arrays) -> Iterator[Check]:
    for key in want:
        if key.startswith("koleo_eps"):
            eps = float(key.removeprefix("koleo_eps"))
            inputs = [want[f"mid/koleo_in_{v}"] for v in range(len(want[key]))]
            ours = [losses.koleo(jnp.asarray(x), eps).mean() for x in inputs]
            yield compare(name, f"koleo with epsilon {eps:g}", ours, want[key], rtol=LOSS)
