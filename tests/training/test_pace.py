from types import SimpleNamespace

import jax
import pytest
from tiny_recipe import tiny_recipe

from histojax.config import paper
from histojax.training.pace import mfu_of_a_step_a_second, with_mfu
from histojax.training.recipe import recipe_of


def some(kind, count=1):
    return [SimpleNamespace(device_kind=kind)] * count


def test_mfu_is_of_the_peak_of_all_devices_in_the_dtype_of_the_products():
    recipe = recipe_of(paper(), "gpu")
    one = mfu_of_a_step_a_second(recipe, 256, some("NVIDIA A100-SXM4-80GB"))
    assert one == pytest.approx(256 * 0.166e12 / 312e12, rel=0.01)  # at 2.5 steps a second: 34 %
    assert mfu_of_a_step_a_second(recipe, 256, some("NVIDIA A100-SXM4-80GB", 8)) == pytest.approx(one / 8)
    in_float32 = recipe_of(paper(), "cpu")
    assert mfu_of_a_step_a_second(in_float32, 256, some("NVIDIA A100-SXM4-80GB")) == pytest.approx(one * 312 / 19.5)


def test_no_mfu_where_the_peak_is_not_known_or_nothing_was_measured():
    assert mfu_of_a_step_a_second(tiny_recipe(), 8, jax.devices("cpu")) is None
    rates = {"steps_per_second": 2.0, "images_per_second": 16.0}
    assert with_mfu(rates, None) == rates and with_mfu({}, 0.1) == {}
    assert with_mfu(rates, 0.1)["mfu"] == 0.2
