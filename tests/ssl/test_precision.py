"""What the lowered step says about the precision of each product, for GPUs and TPUs, without one."""

import functools
import re
from collections import Counter

import jax
import numpy as np
import pytest
from tiny_recipe import start_state, tiny_config, tiny_images

from histojax.ssl import step as steps
from histojax.training.recipe import recipe_of, schedules_of

PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution).*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)")


@functools.cache
def lowered(platform, **leaves):
    """The text of the lowered step."""
    config = tiny_config(**leaves)
    recipe = recipe_of(config, platform)
    state = jax.eval_shape(lambda: start_state(recipe))
    images = jax.eval_shape(tiny_images)
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = steps.make_step(recipe).trace(state, images, key, schedules_of(config).at(np.int32(0)))
    return traced.lower(lowering_platforms=("cuda" if platform == "gpu" else platform,)).as_text()


def products(text):
    """How many products there are by (types of the factors, precision)."""
    found = Counter()
    for line in text.splitlines():
        if match := PRODUCT.search(line):
            precision = re.search(r"precision = \[(\w+), (\w+)\]", line)
            assert precision is None or precision[1] == precision[2]
            found["*".join(sorted({match[1], match[2]})), precision[1] if precision else "DEFAULT"] += 1
    return found


def test_float32_is_float32():
    found = products(lowered("gpu", compute_dtype="float32"))
    assert found and set(found) == {("f32", "HIGHEST")}


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_in_bfloat16_everything_but_the_networks_says_what_it_needs(platform):
    found = products(lowered(platform))
    gradients_of_attention = {("bf16*f32", "DEFAULT")}  # of scores, by queries and keys in bfloat16
    assert set(found) - gradients_of_attention == {("bf16", "DEFAULT"), ("f32", "HIGH"), ("f32", "HIGHEST")}
    assert found["bf16*f32", "DEFAULT"] <= 6


def test_features_of_a_float32_recipe_are_float32():
    recipe = recipe_of(tiny_config(compute_dtype="float32"), "gpu")
    backbone = jax.eval_shape(lambda: start_state(recipe)).parameters("teacher")["backbone"]
    traced = steps.make_features(recipe).trace(backbone, jax.eval_shape(tiny_images))
    assert set(products(traced.lower(lowering_platforms=("cuda",)).as_text())) == {("f32", "HIGHEST")}
