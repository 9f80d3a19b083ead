"""The first state of a run, made where it belongs, and the shapes of one for a resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from histojax.parallel.host_values import place_parts
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState
from histojax.training.start import Start

Tree = Any
Split = Callable[[Any], Any] | None  # from a tree of shapes to its shardings; None: one device


def abstract_state(recipe: Recipe, split: Split) -> TrainState:
    """A TrainState of jax.ShapeDtypeStruct with shardings: nothing of it is in memory."""
    shapes = jax.eval_shape(lambda: recipe.start(recipe.init(jax.random.key(0))))
    return jax.tree.map(_placed_shape, shapes, _shardings(shapes, split))


def first_state(recipe: Recipe, start: Start, key: jax.Array, split: Split) -> TrainState:
    """Random parameters with the loaded ones in their place, float32.

    It is born on the devices and in the parts in which it stays. Loaded modules are not drawn at random first: they
    are placed leaf by leaf, and `start` is emptied before the rest of the state is made.
    """
    shapes = jax.eval_shape(recipe.init, key)
    shardings = _shardings(shapes, split)
    missing = [name for name in recipe.modules if name not in start.student]
    random = jax.jit(
        lambda key: {name: part for name, part in recipe.init(key).items() if name in missing},
        out_shardings={name: shardings[name] for name in missing},
    )(key)
    teacher = None
    if start.teacher:
        teacher = {name: jax.tree.map(jnp.copy, part) for name, part in random.items()}
        teacher |= {name: _place(part, shardings[name]) for name, part in start.teacher.items()}
    student = random | {name: _place(part, shardings[name]) for name, part in start.student.items()}
    start.student.clear()
    start.teacher.clear()
    pairs = jax.random.fold_in(key, 1)
    whole = _shardings(jax.eval_shape(recipe.start, student, teacher, pairs), split)
    with warnings.catch_warnings():  # blocks that are parted are given away as well, though nothing takes their place
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        return jax.jit(recipe.start, donate_argnums=(0, 1), out_shardings=whole)(student, teacher, pairs)


def _place(tree: Tree, shardings: Tree) -> Tree:
    """The leaves of a host tree on their devices, float32, one after the other."""

    def place(leaf: np.ndarray, sharding: Any) -> jax.Array:
        return place_parts(np.asarray(leaf, np.float32), sharding).block_until_ready()

    return jax.tree.map(place, tree, shardings)


def _shardings(shapes: Any, split: Split) -> Any:
    if split is not None:
        return split(shapes)
    one = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: one, shapes)


def _placed_shape(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
