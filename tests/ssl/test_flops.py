import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from tiny_recipe import tiny_recipe

from histojax.config import paper
from histojax.ssl import step
from histojax.ssl.flops import step_flops
from histojax.training.recipe import recipe_of


def arguments(recipe, batch, px):
    """Shapes of what `forward_and_backward` takes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, px, px, 3), jnp.uint8)
    state = jax.eval_shape(lambda k: recipe.start(recipe.init(k)), key)
    views = jax.eval_shape(partial(step.make_views, recipe), images, key, key)
    return state, views, key


def forward_and_backward(recipe, state, views, key):
    """All of a step that has matrix products."""
    target, _ = step.teach(recipe, state.parameters("teacher"), state.centres, views, jnp.float32(0.05))
    return step.student_gradient(recipe, state.networks["student"], state.frozen, views, target, key)


def products(jaxpr):
    """2 for each multiply-add of the matrix products of a program, those of a loop as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(shape[i] for i in contracted) * math.prod(equation.outvars[0].aval.shape)
        assert equation.primitive.name != "while"
        if equation.primitive.name == "cond":  # one branch of them, as of platform_dependent
            total += max(products(branch.jaxpr) for branch in equation.params["branches"])
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            total += times * products(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize(
    "leaves",
    [
        {"model.remat": "dots", "loss.targets": "formed", "accumulate": 2},
        {"model.size": "vit_giant2", "model.remat": "block", "compute_dtype": "bfloat16", "loss.targets": "parts"},
        {"model.train": "lora:8@last:6", "model.remat": "none", "ibot_head.separate": True},
    ],
)
def test_the_formula_agrees_with_the_products_of_the_program(leaves):
    config = paper()
    config.update_from_flattened_dict(leaves)
    recipe = recipe_of(config, "cpu")
    counted = products(jax.make_jaxpr(partial(forward_and_backward, recipe))(*arguments(recipe, 8, 224)).jaxpr)
    assert step_flops(recipe, 8).total == pytest.approx(counted, rel=0.02)


def test_the_formula_agrees_with_what_xla_counts_in_an_unrolled_program():
    """XLA counts the body of a loop once: here no loop runs twice. It also counts what is no product."""
    recipe = tiny_recipe(**{"loss.token_chunk": 4096, "loss.centering": "softmax"})
    recipe = dataclasses.replace(recipe, vit=dataclasses.replace(recipe.vit, unroll=recipe.vit.depth))
    lowered = jax.jit(partial(forward_and_backward, recipe)).lower(*arguments(recipe, 8, 32))
    counted = lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()["flops"]
    assert 0.85 < step_flops(recipe, 8).total / counted < 1.0


def test_operations_a_tile_are_those_of_the_papers_networks():
    config = paper()
    recipe = recipe_of(config, "gpu")
    one = step_flops(recipe, 256)
    assert one.model / 256 == pytest.approx(0.166e12, rel=0.01)
    assert one.model == pytest.approx(one.teacher + one.student + one.backward + one.heads + one.prototypes)
    assert step_flops(recipe, 512).total == pytest.approx(2 * one.total, rel=0.01)


def test_what_is_frozen_or_dropped_costs_less():
    everything = step_flops(tiny_recipe(), 8)
    norms = step_flops(tiny_recipe(model__train="norms"), 8)
    heads = step_flops(tiny_recipe(model__train="lora:0"), 8)
    assert heads.backward == 0 < norms.backward < everything.backward
    dropped = step_flops(tiny_recipe(model__drop_path=0.5), 8)
    assert dropped.teacher == everything.teacher and dropped.student < 0.6 * everything.student
