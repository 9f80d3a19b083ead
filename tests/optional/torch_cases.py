"""Networks, parameters and comparisons that the tests against torch share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx  # noqa: E402

from histojax.models.network import abstract  # noqa: E402
from histojax.models.vit import ViTConfig  # noqa: E402
from histojax.weights.trees import flatten, unflatten  # noqa: E402

MLP = ViTConfig(128, 3, 2, 14, image=56, mask_token=False)
SWIGLU = {"ffn": "swiglu", "hidden": 344}
VITS = {
    "mlp": MLP,
    "mlp, 4 registers": ViTConfig(128, 3, 2, 14, image=56, registers=4),
    "swiglu": ViTConfig(128, 3, 2, 14, image=56, **SWIGLU),
    "swiglu, 4 registers": ViTConfig(128, 3, 2, 14, image=56, registers=4, **SWIGLU),
    "patch 16, no LayerScale": ViTConfig(128, 3, 2, 16, image=64, layerscale=None, mask_token=False),
    "8 registers, patch rows": ViTConfig(
        128, 3, 2, 14, image=56, registers=8, positions="patches", mask_token=False, **SWIGLU
    ),
    "4 registers, rows for all": ViTConfig(
        128, 3, 2, 14, image=56, registers=4, positions="all", mask_token=False, **SWIGLU
    ),
    "patch rows": ViTConfig(128, 3, 2, 14, image=56, positions="patches", mask_token=False),
}


def random_tree(config, seed=0):
    """Parameters of which none is trivial."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        last = path.rpartition("/")[2]
        if last in ("scale", "gamma", "var"):
            return rng.uniform(0.5, 1.5, shape)
        fan_in = np.prod(shape[:-1]) if len(shape) == 4 else shape[-2] if len(shape) > 1 else 1
        return rng.normal(0, 0.02 if last != "kernel" else fan_in**-0.5, shape)

    flat = {path: leaf(path, x.shape).astype(np.float32) for path, x in flatten(abstract(config)[1]).items()}
    return unflatten(flat)


def images(side, count=2):
    return np.random.default_rng(9).normal(size=(count, side, side, 3)).astype(np.float32)


def ours(config, tree, x):
    network = nnx.merge(abstract(config)[0], jax.tree.map(jnp.asarray, tree))
    return jax.tree.map(np.asarray, nnx.jit(lambda m, x: m(x))(network, x))


def to_torch(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def tokens(out):
    return np.concatenate([out["cls"][:, None], out["registers"], out["patches"]], axis=1)


def assert_close(found, expected):
    found = found.detach().numpy() if hasattr(found, "detach") else found
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-5, rtol=1e-5)
