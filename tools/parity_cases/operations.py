"""Single operations: Sinkhorn-Knopp, KoLeo, heads, cross-entropies, centring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.ssl import losses
from histojax.ssl.heads import Head, HeadConfig, logits
from histojax.ssl.targets import Centre, Targets, centred_softmax, masked_mean, sinkhorn
from histojax.weights.layouts.dinov2 import write_head
from parity_cases.check import Check, bounded, compare, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.trees import head_tree

RTOL = 2e-5
TINY = 1e-30  # probabilities below it are near the end of float32, where its digits run out
INITS = 64  # random heads, to know how far a tensor's standard deviation may lie from the mean


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """One case per numbered group of arrays (`sk0/`, `koleo3/`, ...), per loss class, and for the centre."""
    numbered = {"sk": _sinkhorn, "koleo": _koleo, "head": _head}
    single = {"ibotloss": ("loss", _ibot), "dinoloss": ("loss_sum_over_pairs", _dino), "center": ("x0", _centre)}
    for group in sorted({k.split("/")[0] for k in file.names if "/" in k}):
        arrays, name = file.arrays.below(f"{group}/"), f"{file.name} {group}"
        match = re.fullmatch(r"([a-z]+)\d+", group)
        if match and match[1] in numbered:
            yield name, partial(numbered[match[1]], name, arrays)
        elif group in single and single[group][0] in arrays:
            yield name, partial(single[group][1], name, arrays)


def _sinkhorn(name: str, a: Arrays) -> Iterator[Check]:
    scores, temp = jnp.asarray(a["logits"]), jnp.float32(a["temp"])
    ours = sinkhorn(scores, temp).probabilities()
    padded = jnp.concatenate([scores, jnp.full((3, scores.shape[1]), scores.max() + 1)])
    with_padding = sinkhorn(padded, temp, jnp.arange(len(padded)) < len(scores)).probabilities()
    for key in ("dino", "ibot"):
        if key in a:
            yield compare(name, key, ours, a[key], rtol=RTOL, atol=TINY)
            yield compare(name, f"{key}, padded", with_padding[: len(ours)], a[key], rtol=RTOL, atol=TINY)


def _koleo(name: str, a: Arrays) -> Iterator[Check]:
    eps = float(a["pdist_eps"])
    loss, gradient = jax.value_and_grad(lambda x: losses.koleo(x, eps).mean())(jnp.asarray(a["x"]))
    yield compare(name, "loss", loss, a["loss"], rtol=RTOL)
    # of one image alone the gradient is zero, but for rounding
    yield compare(name, "gradient", gradient, a["grad"], norm=1e-4, atol=1e-6)


def _head(name: str, a: Arrays) -> Iterator[Check]:
    tensors = a.below("param/")
    prototypes, bottleneck = tensors["last_layer.weight_v"].shape
    mlps = [k for k in tensors if k.startswith("mlp") and k.endswith("weight")]
    hidden = tensors["mlp.0.weight"].shape[0] if len(mlps) > 1 else 1
    config = HeadConfig(a["x"].shape[1], prototypes, bottleneck, hidden, len(mlps))
    graph = nnx.graphdef(nnx.eval_shape(lambda: Head(config, nnx.Rngs(0))))
    ours = logits(*nnx.merge(graph, head_tree(tensors))(jnp.asarray(a["x"])))
    yield compare(name, "output", ours, a["y"], atol=2e-5)
    yield from worst(name, "spread of fresh tensors", list(_fresh(name, config, a.below("default_init_std/"))))


def _fresh(name: str, config: HeadConfig, recorded: Arrays) -> Iterator[Check]:
    """Standard deviations of the tensors of a new head: where the recorded one lies among those of many new heads."""
    if not recorded:
        return
    make = jax.jit(jax.vmap(lambda key: nnx.to_pure_dict(nnx.state(Head(config, nnx.Rngs(key))))))
    trees = make(jax.random.split(jax.random.key(0), INITS))
    heads = [write_head(jax.tree.map(lambda x, i=i: np.asarray(x[i]), trees)) for i in range(INITS)]
    for key, theirs in recorded.items():
        ours = np.array([tensors[key].std() for tensors in heads], np.float64)
        z = abs(float(theirs) - ours.mean()) / max(ours.std(), 1e-9)
        yield bounded(name, key, z, 6.0, "standard deviations", abs(float(theirs) - ours.mean()))


def _one_hot_scores(student: np.ndarray, teacher: np.ndarray) -> jax.Array:
    """Cross-entropy (n,) of given scores: with the identity as prototypes, scores enter as features."""
    z, eye = jnp.asarray(student)[None], jnp.eye(student.shape[-1], dtype=jnp.float32)
    target = Targets(jnp.asarray(teacher)[None], jnp.ones(student.shape[-1]), jnp.ones((1, len(teacher))))
    return losses.cross_entropy(z, eye, target, 0.1, chunk=4)[0]


def _ibot(name: str, a: Arrays) -> Iterator[Check]:
    ours = jnp.sum(_one_hot_scores(a["student"], a["teacher"]) * a["weight"]) / a["n_crops"]
    yield compare(name, "loss", ours, a["loss"], rtol=RTOL)


def _dino(name: str, a: Arrays) -> Iterator[Check]:
    pairs = [_one_hot_scores(s, t).mean() for s in a["student"] for t in a["teacher"]]
    yield compare(name, "loss", sum(pairs), a["loss_sum_over_pairs"], rtol=RTOL)


def _centre(name: str, a: Arrays) -> Iterator[Check]:
    rounds = sum(1 for k in a if re.fullmatch(r"x\d+", k))
    centres = [np.zeros(a["x0"].shape[-1], np.float32)]
    centre = Centre.start(jnp.asarray(centres[0]))
    for i in range(rounds):
        x = jnp.asarray(a[f"x{i}"])
        used = centre.apply()
        centres.append(np.asarray(used))
        centre = Centre(used, masked_mean(x[None], jnp.ones((1, len(x)))))
    temp = next((float(a[k]) for k in a if "temp" in k), None) or fitted_temperature(
        [a[f"x{i}"] - centres[i + 1] for i in range(rounds)], [a[f"dino_probs{i}"] for i in range(rounds)]
    )
    for i, value in enumerate(centres[1:]):
        ours = centred_softmax(jnp.asarray(a[f"x{i}"]), jnp.float32(temp), jnp.asarray(value)).probabilities()
        for loss in ("dino", "ibot"):
            if f"{loss}_probs{i}" in a:
                probabilities = a[f"{loss}_probs{i}"]
                yield compare(name, f"{loss} probabilities {i}", ours, probabilities, rtol=RTOL, atol=TINY)
            if f"{loss}_buffer{i}" in a:
                yield compare(name, f"{loss} centre {i}", value, a[f"{loss}_buffer{i}"].reshape(-1), atol=1e-6)


def fitted_temperature(scores: list[np.ndarray], probabilities: list[np.ndarray]) -> float:
    """The temperature where none is stored: the slope between scores and log-probabilities, over all rows.

    Probabilities near the end of float32 have lost their digits and are left out. Somebody wrote the temperature
    down, so the number with the fewest digits that rounding allows is taken.
    """
    above = below = 0.0
    for x, p in zip(np.concatenate(scores).astype(np.float64), np.concatenate(probabilities).astype(np.float64)):
        kept = p > 1e-20
        dx, dy = (v[kept] - v[kept].mean() for v in (x, np.log(np.maximum(p, 1e-300))))
        above, below = above + dx @ dx, below + dx @ dy
    slope = above / below
    rounded = (float(f"{slope:.{digits}g}") for digits in range(1, 17))
    return next(r for r in rounded if abs(r / slope - 1) < 3e-6)
