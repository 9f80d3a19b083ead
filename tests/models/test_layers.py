import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.layers import product

FACTORS = [jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate([(2, 3, 16), (16, 8)])]


def test_a_product_of_16_bits_and_its_gradients_are_those_of_matmul():
    exact = jnp.matmul(*(np.asarray(x, np.float32) for x in FACTORS))
    np.testing.assert_array_equal(product(*FACTORS), exact.astype(jnp.bfloat16))
    slope = jnp.ones(exact.shape, jnp.bfloat16)
    for mine, plain in zip(*(jax.vjp(f, *FACTORS)[1](slope) for f in (product, jnp.matmul))):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_array_equal(mine, plain)


@pytest.mark.parametrize(("platform", "out"), [("cpu", "f32"), ("cuda", "bf16"), ("tpu", "bf16")])
def test_processors_alone_widen_it(platform, out):
    lowered = jax.jit(product).trace(*FACTORS).lower(lowering_platforms=(platform,)).as_text()
    (dot,) = [line for line in lowered.splitlines() if "dot_general" in line]
    assert re.search(rf"-> tensor<2x3x8x{out}>", dot)
