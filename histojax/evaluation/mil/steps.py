"""One step of a training on bags, as pure functions of (parameters, optimiser state, bag).

One program is compiled for each length that bags are padded to, and serves all folds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from histojax.evaluation.mil.bags import padded
from histojax.evaluation.mil.models import bind
from histojax.evaluation.mil.settings import HeadSettings, TrainSettings
from histojax.evaluation.mil.tasks import TASKS, Task

Tree = Any
Step = Callable[..., tuple[Tree, Tree, Any]]


def optimiser(training: TrainSettings) -> optax.GradientTransformation:
    """torch's AdamW."""
    return _adamw(training.learning_rate, training.weight_decay)


def single_step(settings: HeadSettings, training: TrainSettings, task: Task) -> Step:
    """Compiled (params, optimiser state, x, mask, targets, weight, key) -> (params, optimiser state, mean loss).

    The first two are given away: they may not be used again.
    """
    return _single_step(settings, training.learning_rate, training.weight_decay, task)


def joint_step(settings: HeadSettings, training: TrainSettings, task: Task) -> Step:
    """(params, optimiser state, bags, keys, targets) -> (params, optimiser state, loss) of bags that are compared.

    The gradient of the joint loss, with the memory of one bag: first the logits of all bags, then the slope of the
    loss by each, then each bag backwards with its slope.
    """
    logits, pull = _logits(settings), _pull(settings)
    slopes = _slopes(task)

    def step(params: Tree, state: Tree, draws: Sequence[np.ndarray], keys: Sequence[Any], targets: np.ndarray) -> Any:
        bags = [padded(x) for x in draws]
        found = jnp.concatenate([logits(params, *bag, key) for bag, key in zip(bags, keys)])
        loss, by_bag = slopes(found, targets)
        total = jax.tree.map(jnp.zeros_like, params)
        for i, (bag, key) in enumerate(zip(bags, keys)):
            total = pull(params, *bag, key, by_bag[i : i + 1], total)
        return *_update(training.learning_rate, training.weight_decay)(params, state, total), loss

    return step


def _adamw(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, 0.9, 0.999, 1e-8, weight_decay=weight_decay)


@functools.lru_cache(maxsize=64)
def _single_step(settings: HeadSettings, learning_rate: float, weight_decay: float, task: Task) -> Step:
    def loss(params: Tree, x: Any, mask: Any, targets: Any, weight: Any, key: Any) -> Any:
        return TASKS[task].loss(bind(settings, params)(x, mask, key), targets, weight).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Tree, state: Tree, x: Any, mask: Any, targets: Any, weight: Any, key: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            value, slopes = jax.value_and_grad(loss)(params, x, mask, targets, weight, key)
        updates, state = _adamw(learning_rate, weight_decay).update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


@functools.lru_cache(maxsize=64)
def _logits(settings: HeadSettings) -> Callable[..., Any]:
    @jax.jit
    def logits(params: Tree, x: Any, mask: Any, key: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return bind(settings, params)(x, mask, key)

    return logits


@functools.lru_cache(maxsize=64)
def _pull(settings: HeadSettings) -> Callable[..., Tree]:
    """The sum of gradients so far with a bag's, for the slope of the loss by its logits."""

    @functools.partial(jax.jit, donate_argnums=5)
    def pull(params: Tree, x: Any, mask: Any, key: Any, slope: Any, total: Tree) -> Tree:
        with jax.default_matmul_precision("highest"):
            _, back = jax.vjp(lambda params: bind(settings, params)(x, mask, key), params)
            return jax.tree.map(jnp.add, total, back(slope)[0])

    return pull


@functools.lru_cache(maxsize=8)
def _slopes(task: Task) -> Callable[..., Any]:
    def loss(logits: Any, targets: Any) -> Any:
        return TASKS[task].loss(logits, targets, jnp.float32(1)).mean()

    return jax.jit(jax.value_and_grad(loss))


@functools.lru_cache(maxsize=8)
def _update(learning_rate: float, weight_decay: float) -> Callable[..., tuple[Tree, Tree]]:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Tree, state: Tree, slopes: Tree) -> tuple[Tree, Tree]:
        updates, state = _adamw(learning_rate, weight_decay).update(slopes, state, params)
        return optax.apply_updates(params, updates), state

    return update
