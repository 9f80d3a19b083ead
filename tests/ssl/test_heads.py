import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from histojax.ssl.heads import Head, HeadConfig, logits


@pytest.mark.parametrize(("layers", "names"), [(1, ["mlp"]), (2, ["mlp_0", "mlp_2"]), (3, ["mlp_0", "mlp_2", "mlp_4"])])
def test_layers_are_named_by_torch_s_places(layers, names):
    head = Head(HeadConfig(8, 16, 4, 12, layers), nnx.Rngs(0))
    assert sorted(k for k in nnx.to_pure_dict(nnx.state(head)) if k.startswith("mlp")) == names


def test_scores_are_cosines_times_g():
    head = Head(HeadConfig(8, 16, 4, 12), nnx.Rngs(0))
    head.last_layer.g[...] = jnp.full(16, 2.0)
    x = jax.random.normal(jax.random.key(1), (5, 8))
    z, prototypes = head(x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(prototypes, axis=-1), 2, rtol=1e-5)
    assert float(jnp.abs(logits(z, prototypes)).max()) <= 2.0001


def test_a_zero_token_has_a_finite_gradient():
    head = Head(HeadConfig(8, 16, 4, 12, 1), nnx.Rngs(0))
    gradient = jax.grad(lambda x: logits(*head(x)).sum())(jnp.zeros((1, 8)))
    assert np.isfinite(gradient).all()


def test_initial_distributions():
    head = Head(HeadConfig(64, 4096, 256, 512), nnx.Rngs(0))
    v = np.asarray(head.last_layer.v[...])
    assert abs(v).max() <= 1 / 16 and v.std() == pytest.approx(1 / 16 / 3**0.5, rel=0.01)
    kernel = np.asarray(head.mlp_0.kernel[...])
    assert kernel.std() == pytest.approx(0.02, rel=0.02) and abs(kernel).max() > 0.06  # not cut at two sigma
    assert not np.any(head.mlp_0.bias[...]) and np.all(head.last_layer.g[...] == 1)
