"""Several steps of training from recorded weights over recorded inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np

from histojax.ssl import step
from histojax.ssl.state import TrainState
from parity_cases.batches import inputs_of, views_of
from parity_cases.check import Check, compare, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.runs import TOTAL, has_trajectory, on_device, recipe_of, reported_terms, weights_of
from parity_cases.schedules import COLUMNS, of_training
from parity_cases.trees import module_tensors, module_trees

LOSS, PARAMETER, CENTRE = 1e-4, 1e-5, 1e-6


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with `loss/total_backprop`, one value a step; weights (`init/`) and inputs lie in files of their own."""
    if has_trajectory(file):
        yield file.name, partial(_trajectory, file, folder)


def _trajectory(file: ArrayFile, folder: Folder) -> Iterator[Check]:
    name, want, params = file.name, file.arrays, weights_of(file, folder, "init/").below("init/")
    recipe, inputs = recipe_of(file.meta, dict(params)), inputs_of(file, folder)
    steps = len(want[f"loss/{TOTAL}"])
    yield from of_training(name, file.meta, want.below("sched/"))
    state = recipe.start(on_device(module_trees(params)))
    advance = jax.jit(partial(step.update, recipe, key=jax.random.key(0)))
    history: dict[str, list[float]] = {}
    for i in range(steps):
        table = {ours: np.float32(want[f"sched/{theirs}"][i]) for theirs, ours in COLUMNS.items()}
        table["backbone_lr"] = table["lr"]
        state, metrics = advance(state, views_of(inputs, i), table)
        for k, v in metrics.items():
            history.setdefault(k, []).append(float(v))
        after = want.below(f"after_step{i}/")
        yield from _snapshot(name, f"after step {i}", state, after, want.below("noise/") if i else {})
    for label, recorded in (("", want), ("float64 ", want.below("float64/"))):
        for theirs, ours in reported_terms(history, recipe.loss).items():
            if f"loss/{theirs}" in recorded:
                yield compare(name, f"{label}{theirs} at each step", ours, recorded[f"loss/{theirs}"], rtol=LOSS)
    for module, expected in want.below("grad_norm_before_clip/").items():
        yield compare(name, f"gradient norm, {module}", history[f"grad_norm/{module}"], expected, rtol=LOSS)
    yield from _snapshot(name, "final parameters", state, want.below("final/"), want.below("noise/"))
    for k, expected in want.below("final_center_buffer/").items():
        ours = state.centres[k].value
        yield compare(name, f"{k} centre at the end", ours, expected.reshape(-1), atol=CENTRE)


def _snapshot(name: str, what: str, state: TrainState, expected: Arrays, noise: Arrays | dict) -> Iterator[Check]:
    """Parameters within 1e-5, or three times the reference's own float32 noise; the keys' bias is left out, whose
    gradient is zero but for rounding, which Adam turns into steps of full size."""
    if not expected:
        return
    ours = {f"student.{k}": v for k, v in module_tensors(state.parameters("student")).items()}
    ours |= {f"teacher.{k}": v for k, v in module_tensors(state.parameters("teacher")).items()}
    checks = []
    for k, value in expected.items():
        a, b = ours.get(k, np.zeros(0)), value
        if k.endswith("attn.qkv.bias") and a.shape == b.shape:
            a, b = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (a, b))
        checks.append(compare(name, k, a, b, atol=max(PARAMETER, 3 * _noise(k, noise))))
    yield from worst(name, what, checks)


def _noise(parameter: str, noise: Arrays | dict) -> float:
    """The recorded noise; that of the bias of queries, keys and values is the keys', so their weights stand for it."""
    recorded = float(noise[parameter][0]) if parameter in noise else 0.0
    if not parameter.endswith("attn.qkv.bias"):
        return recorded
    weight = re.sub(r"bias$", "weight", parameter)
    return float(noise[weight][0]) if weight in noise else 0.0
