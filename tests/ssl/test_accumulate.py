import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_recipe import spread_state, tiny_images, tiny_recipe

from histojax.parallel.mesh import make_mesh
from histojax.parallel.sharding import Layout
from histojax.ssl import step as steps
from histojax.ssl.accumulate import Parts


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs run for milliseconds and compile for many seconds: skip what only makes them run faster."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def views():
    """Crops and masks of sixteen images."""
    return jax.jit(partial(steps.make_views, tiny_recipe()))(tiny_images(n=16), jax.random.key(1), jax.random.key(2))


@partial(jax.jit, static_argnums=0)
def gradient(recipe, state, views, key=None):
    """(gradients, terms and metrics)."""
    target, seen = steps.teach(recipe, state.parameters("teacher"), state.centres, views, jnp.float32(0.05))
    gradients, terms = steps.student_gradient(recipe, state.networks["student"], state.frozen, views, target, key)
    return gradients, terms | seen


@functools.cache
def at_once():
    recipe = tiny_recipe()
    return jax.device_get(gradient(recipe, spread_state(recipe), views()))


def check_same(found):
    (gradients, terms), (expected, whole) = jax.device_get(found), at_once()
    for name in whole:
        assert terms[name] == pytest.approx(whole[name], rel=2e-6), name
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        assert np.abs(a - b).max() < 2e-6 * np.linalg.norm(b)


def test_parts_one_after_the_other_are_the_batch():
    """Loss, gradients and metrics, KoLeo and Sinkhorn among them, which compare tokens of all images."""
    recipe = tiny_recipe(accumulate=4)
    check_same(gradient(recipe, spread_state(recipe), views()))


def test_parts_over_devices_that_share_the_state_are_the_batch():
    layout = Layout(make_mesh(4))
    recipe = dataclasses.replace(tiny_recipe(accumulate=2), layout=layout)
    crops = jax.device_put((views().global_crops, views().local_crops), layout.batch)
    spread = steps.Views(*crops, jax.device_put(views().masks, layout.whole))
    state = spread_state(recipe)
    check_same(gradient(recipe, jax.device_put(state, layout.state(state)), spread))


@pytest.mark.parametrize("train", ["lora:0", "lora:2@last:1", "last:1"])
def test_what_is_frozen_gets_no_gradient(train):
    recipe = tiny_recipe(accumulate=2, model__train=train, model__drop_path=0.3)
    state = jax.eval_shape(lambda: spread_state(recipe))
    gradients, _ = jax.eval_shape(partial(gradient, recipe), state, views(), jax.random.key(0))
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, state.networks["student"])


def test_each_part_has_images_of_every_shard_and_device():
    parts, x = Parts(count=2, groups=4), jnp.arange(32.0).reshape(16, 2)
    cut = parts.cut({"x": x, "of all": jnp.ones(3)})
    assert cut["x"][:, :, 0].tolist() == [[0, 2, 8, 10, 16, 18, 24, 26], [4, 6, 12, 14, 20, 22, 28, 30]]
    assert cut["of all"].shape == (2, 3)
    assert np.array_equal(parts.join(cut["x"]), x)


def test_no_image_leaves_its_device():
    layout = Layout(make_mesh())
    parts = Parts(2, 8, layout)
    x = jax.device_put(jnp.ones((32, 4)), layout.batch)
    program = jax.jit(lambda x: parts.map(lambda part, _: 2 * part, x)).lower(x).compile().as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))


def test_each_part_draws_its_own_rows():
    def draw(x, key):
        return x + jax.random.uniform(key, x.shape)

    parts, x, key = Parts(2, 1), jnp.zeros((4, 3)), jax.random.key(0)
    drawn = parts.map(draw, x, key)
    assert len(np.unique(drawn)) == drawn.size
    np.testing.assert_allclose(parts.sum(draw, x, key), drawn[:2] + drawn[2:], rtol=1e-6)
