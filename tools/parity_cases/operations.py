"""Single operations: Sinkhorn-Knopp, KoLeo, heads, cross-entropies, centring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.ssl import losses
from histojax.ssl.heads import Head, HeadConfig, logits
from histojax.ssl.targets import Centre, Targets, centred_softmax, masked_mean, sinkhorn
from parity_cases.check import Check, archives, compare
from parity_cases.training import below_dict
from parity_cases.trees import head_tree


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """One case per group of arrays with a number, and per loss class."""
    runs = {"sk": _sinkhorn, "koleo": _koleo, "head": _head}
    for path, data, _ in archives(folder):
        arrays = {k: data[k] for k in data.files}
        for kind, run in runs.items():
            numbers = sorted({int(m[1]) for k in arrays if (m := re.match(rf"{kind}(\d+)/", k))})
            for i in numbers:
                yield (
                    f"{path.stem} {kind}{i}",
                    partial(run, f"{path.stem} {kind}{i}", below_dict(arrays, f"{kind}{i}/")),
                )
        if "ibotloss/loss" in arrays:
            yield f"{path.stem} ibotloss", partial(_ibot, f"{path.stem} ibotloss", below_dict(arrays, "ibotloss/"))
        if "dinoloss/loss_sum_over_pairs" in arrays:
            yield f"{path.stem} dinoloss", partial(_dino, f"{path.stem} dinoloss", below_dict(arrays, "dinoloss/"))
        if "center/x0" in arrays:
            yield (
                f"{path.stem} center",
                partial(_centre, f"{path.stem} center", below_dict(arrays, "center/"), arrays),
            )


def _sinkhorn(name: str, a: dict) -> Iterator[Check]:
    ours = sinkhorn(jnp.asarray(a["logits"]), jnp.float32(a["temp"])).probabilities()
    padded = jnp.concatenate([jnp.asarray(a["logits"]), jnp.full((3, a["logits"].shape[1]), 9.0)])
    valid = jnp.arange(len(padded)) < len(a["logits"])
    with_padding = sinkhorn(padded, jnp.float32(a["temp"]), valid).probabilities()
    for key in ("dino", "ibot"):
        limit = 2e-5 * float(np.max(a[key]))
        yield compare(name, key, ours, a[key], rtol=2e-5, atol=limit)
        yield compare(name, f"{key}, padded", with_padding[: len(ours)], a[key], rtol=2e-5, atol=limit)


def _koleo(name: str, a: dict) -> Iterator[Check]:
    eps = float(a["pdist_eps"])
    loss, gradient = jax.value_and_grad(lambda x: losses.koleo(x, eps).mean())(jnp.asarray(a["x"]))
    yield compare(name, "loss", loss, a["loss"], rtol=2e-5)
    equal = any(np.array_equal(x, y) for i, x in enumerate(a["x"]) for y in a["x"][i + 1 :])
    # one image is its own neighbour, and equal rows have gradients of 1/eps: both are rounding, not numbers
    if len(a["x"]) > 1 and not equal:
        yield compare(name, "gradient", gradient, a["grad"], norm=1e-4)
    else:
        yield compare(name, "gradient is finite", np.isfinite(gradient).all(), True)


def _head(name: str, a: dict) -> Iterator[Check]:
    tensors = below_dict(a, "param/")
    tree = head_tree(tensors)
    prototypes, bottleneck = tensors["last_layer.weight_v"].shape
    layers = sum(k.endswith("weight") and k.startswith("mlp") for k in tensors)
    hidden = tensors["mlp.0.weight"].shape[0] if layers > 1 else 1
    config = HeadConfig(a["x"].shape[1], prototypes, bottleneck, hidden, layers)
    graph = nnx.graphdef(nnx.eval_shape(lambda: Head(config, nnx.Rngs(0))))
    yield compare(name, "output", logits(*nnx.merge(graph, tree)(jnp.asarray(a["x"]))), a["y"], atol=2e-5)


def _one_hot_scores(student: np.ndarray, teacher: np.ndarray) -> jax.Array:
    """Cross-entropy (n,) of given scores: with the identity as prototypes, scores enter as features."""
    z, eye = jnp.asarray(student)[None], jnp.eye(student.shape[-1], dtype=jnp.float32)
    target = Targets(jnp.asarray(teacher)[None], jnp.ones(student.shape[-1]), jnp.ones((1, len(teacher))))
    return losses.cross_entropy(z, eye, target, 0.1, chunk=4)[0]


def _ibot(name: str, a: dict) -> Iterator[Check]:
    ours = jnp.sum(_one_hot_scores(a["student"], a["teacher"]) * a["weight"]) / a["n_crops"]
    yield compare(name, "loss", ours, a["loss"], rtol=2e-5)


def _dino(name: str, a: dict) -> Iterator[Check]:
    pairs = [_one_hot_scores(s, t).mean() for s in a["student"] for t in a["teacher"]]
    yield compare(name, "loss", sum(pairs), a["loss_sum_over_pairs"], rtol=2e-5)


def _centre(name: str, a: dict, everything: dict) -> Iterator[Check]:
    rounds = sum(k.startswith("x") for k in a)
    centre = Centre.start(jnp.zeros(a["x0"].shape[-1]))
    temp = next((float(v) for k, v in everything.items() if k.startswith("center/") and "temp" in k), None)
    for i in range(rounds):
        x, used = jnp.asarray(a[f"x{i}"]), centre.apply()
        for t in [temp] if temp else _temperatures(x, used, a[f"dino_probs{i}"]):
            ours = centred_softmax(x, jnp.float32(t), used).probabilities()
            yield compare(name, f"probabilities {i}", ours, a[f"dino_probs{i}"], rtol=2e-5, atol=1e-7)
            yield compare(name, f"iBOT probabilities {i}", ours, a[f"ibot_probs{i}"], rtol=2e-5, atol=1e-7)
        yield compare(name, f"centre {i}", used, a[f"dino_buffer{i}"].reshape(-1), atol=1e-6)
        yield compare(name, f"iBOT centre {i}", used, a[f"ibot_buffer{i}"].reshape(-1), atol=1e-6)
        centre = Centre(used, masked_mean(x[None], jnp.ones((1, len(x)))))


def _temperatures(x: jax.Array, centre: jax.Array, expected: np.ndarray) -> list[float]:
    """The temperature is not stored: it is what two log-probabilities of one row say it is."""
    gap = np.asarray(x - centre, np.float64)[0]
    low, high = gap.argmin(), gap.argmax()
    return [float((gap[high] - gap[low]) / np.log(float(expected[0, high]) / float(expected[0, low])))]
