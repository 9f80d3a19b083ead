import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import listing, read_listing, rewritten, run_case, worst_excess

from histojax.models.blocks import Conv, nnx
from histojax.models.resnet import RESNET50, RESNET50_TRUNCATED, RETCCL, max_pool
from histojax.weights.containers import open_tensors


def test_golden():
    outputs, golden = run_case("resnet_imagenet")
    excess = worst_excess(outputs, golden)
    assert len(excess) == 12 and max(excess.values()) < 1, excess


def test_wrong_epsilon_is_seen():
    outputs, golden = run_case("resnet_imagenet", only="logits", choice="bn_eps_x100")
    assert worst_excess(outputs, golden)["logits"] > 100


@pytest.mark.parametrize(
    "config, name, parameters",
    [
        (RESNET50, "resnet50_torchvision", 25_557_032),
        (RETCCL, "resnet50_torchvision", 23_508_032),
        (RESNET50_TRUNCATED, "resnet50_torchvision", 8_543_296),
        (RETCCL, "retccl_resnet50", 23_508_032),
    ],
)
def test_published_names(config, name, parameters):
    assert read_listing(config, listing(name)) == parameters


def test_layout_writes_what_it_read():
    from family_cases import GOLDEN

    stored = {k: v.numpy() for k, v in open_tensors(GOLDEN / "resnet_imagenet.safetensors").tensors.items()}
    written = rewritten("resnet", stored)
    assert set(stored) - set(written) == {k for k in stored if k.endswith("num_batches_tracked")}
    for name, value in written.items():
        np.testing.assert_array_equal(value, stored[name])


def test_max_pool_pads_with_minus_infinity():
    x = -np.arange(1, 26, dtype=np.float32).reshape(1, 5, 5, 1)
    expected = -np.array([[1, 2, 4], [6, 7, 9], [16, 17, 19]], np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x))[0, ..., 0], expected)


@pytest.mark.parametrize("size, stride, pad", [(7, 2, 3), (1, 2, 0)])
def test_conv_pads_as_torch_does(size, stride, pad):
    conv = Conv(2, 3, size, stride=stride, pad=pad, bias=True, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(3.0)
    x = np.random.default_rng(0).normal(size=(1, 9, 8, 2)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    expected = np.einsum("nhwcij,ijco->nhwo", windows, np.asarray(conv.kernel[...])) + np.arange(3.0)
    np.testing.assert_allclose(conv(jnp.asarray(x)), expected, atol=1e-5)
