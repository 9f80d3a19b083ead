import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import GOLDEN, listing, read_listing, rewritten, run_case, worst_excess
from flax import nnx

from histojax.models.dinov3 import (
    DINOV3_7B,
    DINOV3_B,
    DINOV3_H_PLUS,
    DINOV3_L,
    DINOV3_S,
    DINOV3_S_PLUS,
    Dinov3Config,
    rotate,
    rotation,
)
from histojax.models.network import abstract
from histojax.weights.containers import open_tensors


@pytest.mark.parametrize("name", ["hf_dinov3_vit", "hf_dinov3_vit_gated"])
def test_golden(name):
    outputs, golden = run_case(name)
    excess = worst_excess(outputs, golden)
    assert len(excess) == 5 and max(excess.values()) < 1, excess


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("hf_dinov3_vit", {"choice": "ln_eps_x10"}),
        ("hf_dinov3_vit", {"choice": "gelu_tanh"}),
        ("hf_dinov3_vit", {"theta": 90.0}),
        ("hf_dinov3_vit_gated", {"choice": "ln_eps_x10"}),
    ],
)
def test_wrong_choices_are_seen(name, wrong):
    outputs, golden = run_case(name, only="features", **wrong)
    assert worst_excess(outputs, golden)["features"] > 1.2


def test_published_names():
    # the listing's 303,129,600 include the mask token
    assert read_listing(DINOV3_L, listing("dinov3_vitl16")) == 303_129_600 - 1024


@pytest.mark.parametrize(
    "config, millions",  # Simeoni et al. 2025, table of the model family
    [
        (DINOV3_S, 21),
        (DINOV3_S_PLUS, 29),
        (DINOV3_B, 86),
        (DINOV3_L, 300),
        (DINOV3_H_PLUS, 840),
        (DINOV3_7B, 6716),
    ],
)
def test_sizes(config, millions):
    total = sum(leaf.size for leaf in jax.tree.leaves(abstract(config)[1]))
    assert total / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("name", ["hf_dinov3_vit", "hf_dinov3_vit_gated"])
def test_layout_writes_what_it_read(name):
    tensors = open_tensors(GOLDEN / f"{name}.safetensors").tensors
    written = rewritten("dinov3", tensors)
    assert set(tensors) == set(written)
    for key, value in written.items():
        np.testing.assert_array_equal(value, tensors[key].numpy())


def test_rotated_products_depend_on_differences_of_position():
    cos, sin = rotation((1, 8), 8, 100.0, prefix=1)
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(np.tile(rng.normal(size=(1, 1, 1, 8)), (1, 9, 1, 1)), jnp.float32) for _ in range(2))
    scores = jnp.einsum("nthd,nshd->ts", rotate(q, cos, sin), rotate(k, cos, sin))[1:, 1:]
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)
    assert float(jnp.ptp(scores[0])) > 0.1
    np.testing.assert_array_equal(rotate(q, cos, sin)[:, 0], q[:, 0])  # the class token stays


def test_image_sides_must_fit_the_patch():
    graph, shapes = abstract(Dinov3Config(16, 1, 2, 8, gated=True))
    tokens = jax.eval_shape(lambda t: nnx.merge(graph, t)(jnp.zeros((1, 32, 64, 3))), shapes)["patches"]
    assert tokens.shape == (1, 8, 16)
    with pytest.raises(ValueError, match="multiples of the patch, 16"):
        jax.eval_shape(lambda t: nnx.merge(graph, t)(jnp.zeros((1, 40, 64, 3))), shapes)
