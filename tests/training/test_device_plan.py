import os

import jax
import pytest
from tiny_recipe import tiny_config

from histojax.common.errors import UserError
from histojax.parallel import deviceless
from histojax.parallel.devices import find, parse
from histojax.parallel.mesh import make_mesh
from histojax.training import config_flags
from histojax.training.check import check
from histojax.training.device_plan import (
    best_of,
    compile_step,
    largest_batch,
    needed_bytes,
    one_device,
    recipe_for,
    state_by_kind,
    step_shapes,
    unit_of,
    usable_memory,
)
from histojax.training.plan import state_bytes
from histojax.training.recipe import recipe_of

MINUTES = "HISTOJAX_COMPILE_ALL"  # set, the paper's configurations are compiled too
PAPER = ("nct_vits14", "nct_vitg14", "tcga_vits14", "tcga_vitg14")


@pytest.mark.parametrize(
    "peak, start, unit, best",
    [
        (lambda b: 100 + 10 * b, 16, 2, 90),  # a straight line: one batch more says the slope, the next one is it
        (lambda b: 100 + 10 * b, 256, 16, 80),
        (lambda b: 100 + 10 * b + b * b // 50, 32, 4, 76),  # bent
        (lambda b: 100 + 10 * b if b < 100 else None, 256, 16, 80),  # a compiler that stops without a number
        (lambda b: 2000, 8, 1, None),
    ],
)
def test_the_largest_batch_is_found_in_few_compilations(peak, start, unit, best):
    tried = largest_batch(peak, start, unit, limit=1000)
    assert best_of(tried, 1000) == best
    assert len(tried) <= 5 and next(iter(tried)) == start and all(b % unit == 0 for b in tried)


def test_a_batch_is_searched_in_steps_that_devices_shards_and_parts_can_have():
    one, four = recipe_of(tiny_config()), recipe_of(tiny_config(), devices=4)
    assert [unit_of(one, batch, 1) for batch in (256, 32, 8)] == [16, 2, 2]
    assert [unit_of(four, batch, 4) for batch in (1024, 128)] == [64, 8]
    assert unit_of(recipe_of(tiny_config(accumulate=4)), 64, 1) == 8


def test_what_a_compiler_says_that_it_needs_is_read():
    assert needed_bytes("Ran out of memory in memory space hbm. Used 19.31G of 15.75G hbm.") == int(19.31 * 2**30)
    assert needed_bytes("RESOURCE_EXHAUSTED") is None


def test_memory_by_kind_is_what_lies_on_one_device():
    config = tiny_config(head__prototypes=2048)
    recipe = recipe_of(config)
    state = step_shapes(config, recipe, one_device(jax.devices()[0]))[0]
    kinds = state_by_kind(state)
    assert sum(kinds.values()) == state_bytes(state) - 4  # the step's number
    assert kinds["student"] == kinds["teacher"] and kinds["optimiser"] == 2 * kinds["student"] + 4
    if (mesh := make_mesh(0)) is not None:
        shared = state_by_kind(step_shapes(config, recipe, mesh)[0])
        assert kinds["student"] / mesh.size < shared["student"] < 0.6 * kinds["student"]


def test_a_batch_that_devices_cannot_have_is_refused():
    with pytest.raises(UserError, match="batch_size=8 is not a multiple of"):
        recipe_for(tiny_config(), find("a100-80gb"), 3)
    assert usable_memory(find("a100-80gb")) < find("a100-80gb").memory and usable_memory(find("v5e")) == 16 * 2**30


def planned(config, name):
    device, count = parse(name)
    if line := deviceless.missing(device.platform):
        pytest.skip(f"needs {line}")
    return compile_step(config, device, count), usable_memory(device)


@pytest.mark.parametrize("name", ["a100-80gb", "v5e-1"])
def test_the_step_compiles_for_a_device_that_is_not_there(name):
    config = tiny_config(crops__local_crops=1)
    compiled, _ = planned(config, name)
    assert compiled.peak > sum(compiled.state.values()) and compiled.work > 0


@pytest.mark.parametrize("name", ["a100-80gb", "v5p-8"])
@pytest.mark.parametrize("paper", PAPER)
def test_the_papers_configurations_compile_and_fit(paper, name):
    if not os.environ.get(MINUTES):
        pytest.skip(f"takes minutes: set {MINUTES}=1")
    config = config_flags.read_config(f"configs/{paper}.py", {})
    check(config)
    compiled, limit = planned(config, name)
    assert compiled.peak < limit
