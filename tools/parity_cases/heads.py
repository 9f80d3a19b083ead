"""Golden models of bags: logits and attention of recorded bags, alone, in a batch, and padded; wrong models differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.mil.bags import padded
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import load_head
from histojax.evaluation.mil.models import bind
from parity_cases import networks
from parity_cases.check import Check, compare, failed
from parity_cases.containers import is_head, weights_for
from parity_cases.extractors import LABELS, description_of, detection, sensitivity_of
from parity_cases.golden import ArrayFile, Folder

MORE = 91  # tiles that do not exist, behind those that do


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with bags of features is a case."""
    if is_head(file):
        yield file.name, partial(_head, file, folder)


def _head(file: ArrayFile, folder: Folder) -> Iterator[Check]:
    description, weights = description_of(file, folder), weights_for(file, folder)
    said: dict[str, Any] = {}
    if description:
        description.used = True
        said = description.content
    if not weights:
        file.arrays.aside(file.names, "bags of a head without a weight file")
        return
    for one in weights:
        name = f"{file.name} {one.path.name}"
        try:
            head = load_head(one.path, said.get("heads", 0), said.get("pool", ""))
        except UserError as error:
            yield failed(name, str(error))
            continue
        yield from _outputs(file, name, head)
        yield from _wrong_models(file, head, sensitivity_of(file, folder))


def _outputs(file: ArrayFile, name: str, head: Head) -> Iterator[Check]:
    """Each recorded array; logits once more with tiles behind the last that do not exist."""
    golden, close = file.arrays, partial(compare, name, atol=networks.ATOL, rtol=networks.RTOL)
    bags = [key for key in golden if f"logits_{key}" in golden]
    for key in bags:
        x = golden[key]
        yield close(f"logits_{key}", _logits(head, x), golden[f"logits_{key}"])
        if f"logits_{key}_f64" in golden:
            yield close(f"logits_{key}_f64", _logits(head, x), golden[f"logits_{key}_f64"])
        if len(x) == 1:
            longer = padded(x[0], x.shape[1] + MORE)
            longer[0][:, x.shape[1] :] = 1e3
            yield close(f"logits_{key}, padded", _logits(head, *longer), golden[f"logits_{key}"])
        if f"attention_{key}" in golden:
            got = bind(head.settings, head.params).attention(x, _all(x))
            yield close(f"attention_{key}", np.swapaxes(got, 1, 2), golden[f"attention_{key}"])
        if f"attention_0_{key}" in golden:
            for i, one in enumerate(bind(head.settings, head.params).maps(x, _all(x))):
                yield close(f"attention_{i}_{key}", one, golden[f"attention_{i}_{key}"])
    if "logits_batch_tiles" in golden:
        x = golden["batch"]
        got = _logits(head, x, np.arange(x.shape[1]) < golden["tiles"])
        yield close("logits_batch_tiles", got, golden["logits_batch_tiles"])


def _wrong_models(file: ArrayFile, head: Head, recorded: dict[str, float]) -> Iterator[Check]:
    """Each must leave the tolerance on the largest bag."""
    golden = file.arrays
    x, wanted = golden["bag1"], golden["logits_bag1"]
    settings, params = head.settings, head.params
    if settings.model in ("transformer", "transmil"):
        wide = dataclasses.replace(settings, eps=10 * settings.eps)
        yield _detected(file, LABELS["ln_eps_x10"], recorded.get("ln_eps_x10"), wanted, wide, params, x)
    if settings.model == "transformer":
        with networks.tanh_gelu():
            yield _detected(file, LABELS["gelu_tanh"], recorded.get("gelu_tanh"), wanted, settings, params, x)
    for label, change in WRONG[settings.model].items():
        yield _detected(file, label, None, wanted, *change(settings, params), x)
    if "logits_batch_tiles" in golden:
        batch = golden["batch"]
        wrong = partial(_logits, head, batch)
        yield detection(file.name, "counting tiles that are not there", None, golden["logits_batch_tiles"], wrong)


def _detected(
    file: ArrayFile, label: str, change: float | None, wanted: Any, settings: Any, params: Any, x: Any
) -> Check:
    head = Head(settings, "classification", (), params)
    return detection(file.name, label, change, wanted, lambda: _logits(head, x))


def _logits(head: Head, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compiled anew: what is patched counts."""
    run = jax.jit(lambda params, x, mask: bind(head.settings, params)(x, mask))
    return np.asarray(run(head.params, x, _all(x) if mask is None else mask))


def _all(x: np.ndarray) -> np.ndarray:
    return np.ones(x.shape[:2], bool)


def _swapped(settings: Any, params: Any) -> tuple[Any, Any]:
    return settings, {**params, "norm": params["head_norm"], "head_norm": params["norm"]}


def _values_for_keys(settings: Any, params: Any) -> tuple[Any, Any]:
    q, k, v = np.split(params["layer0"]["qkv"]["kernel"], 3, axis=1)
    return settings, {**params, "layer0": {**params["layer0"], "qkv": {"kernel": np.concatenate([q, v, k], axis=1)}}}


def _other_pool(settings: Any, params: Any) -> tuple[Any, Any]:
    return dataclasses.replace(settings, pool="mean" if settings.pool == "cls" else "cls"), params


def _other_heads(settings: Any, params: Any) -> tuple[Any, Any]:
    return dataclasses.replace(settings, heads=settings.heads // 2), params


def _uniform(settings: Any, params: Any) -> tuple[Any, Any]:
    return settings, {**params, "score2": {name: 0 * leaf for name, leaf in params["score2"].items()}}


def _other_landmarks(settings: Any, params: Any) -> tuple[Any, Any]:
    return dataclasses.replace(settings, landmarks=settings.landmarks // 2), params


def _turned(settings: Any, params: Any) -> tuple[Any, Any]:
    grid = {name: leaf[::-1, ::-1] if leaf.ndim == 3 else leaf for name, leaf in params["grid"].items()}
    return settings, {**params, "grid": grid}


WRONG: dict[str, dict[str, Callable[[Any, Any], tuple[Any, Any]]]] = {
    "transformer": {
        "the last two norms in the other order": _swapped,
        "keys and values in the other order": _values_for_keys,
        "the other pooling": _other_pool,
        "half as many heads": _other_heads,
    },
    "attention": {"the same weight for each tile": _uniform},
    "transmil": {"half as many landmarks": _other_landmarks, "convolutions turned around": _turned},
}
