import jax
import jax.numpy as jnp
import pytest

from histojax.common.errors import UserError
from histojax.parallel import deviceless, devices


@pytest.mark.parametrize(
    "text, name, count, shape",
    [
        ("a100-80gb", "a100-80gb", 1, "1x1x1"),
        ("A100", "a100-80gb", 1, "1x1x1"),
        ("8xa100-80gb", "a100-80gb", 8, "1x8x1"),
        ("v5e-8", "v5e", 8, "v5e:2x4"),
        ("tpu-v6e-16", "v6e", 16, "v6e:4x4"),
        (" l4", "l4", 1, "1x1x1"),
        ("v5e-1", "v5e", 1, "v5e:1x1"),
        ("v5litepod-8", "v5e", 8, "v5e:2x4"),
        ("4xv5e", "v5e", 4, "v5e:2x2"),
        ("v5p-8", "v5p", 4, "v5p:2x2x1"),
        ("v5p-16", "v5p", 8, "v5p:2x2x2"),
        ("v5p-64", "v5p", 32, "v5p:2x4x4"),
        ("v4-8", "v4", 4, "v4:2x2x1"),
        ("v3-8", "v3", 8, "v3:2x2"),
    ],
)
def test_a_device_is_asked_for_as_it_is_rented(text, name, count, shape):
    device, found = devices.parse(text)
    assert (device.name, found) == (name, count)
    assert devices.topology(device, found) == shape


@pytest.mark.parametrize(
    "text", ["a1000", "v5e-7", "v5p-7", "v5e-2", "v5p-0", "v9-8", "8x", "", "0xl4", "3xv5e-8", "2xv5e"]
)
def test_what_cannot_be_rented_is_refused_in_one_line(text):
    with pytest.raises(UserError) as error:
        devices.parse(text)
    assert "\n" not in str(error.value)


def test_names_aliases_and_kinds_mean_one_device_each():
    everything = [n for d in devices.DEVICES for n in (d.name, *d.aliases, *d.kinds)]
    assert len(everything) == len(set(everything))
    assert all(devices.parse(name) for name in devices.names())
    for device in devices.DEVICES:
        assert all(devices.of_kind(kind) is device for kind in device.kinds)
        assert device.float32 < device.bfloat16 and 8e9 < device.memory < 2e11 and 1e11 < device.bandwidth < 1e13
        assert (device.chip is None) == (device.platform == "tpu")
    assert devices.of_kind("cpu") is None


def test_xla_is_told_of_a_card_in_its_own_words():
    text = devices.target(devices.find("a100-80gb"))
    assert "core_count: 108" in text and "major: 8 minor: 0" in text and "memory_bandwidth: 2039000000000" in text


def test_a_missing_plugin_is_said_with_the_line_that_brings_it(monkeypatch):
    monkeypatch.setitem(deviceless.PLUGINS, "gpu", ("no.such.module", "cuda"))
    with pytest.raises(UserError, match=r'l4: .*pip install "histojax\[cuda\]"'):
        deviceless.devices_of("l4")


@pytest.mark.parametrize("name", ["a100-80gb", "2xh100", "v5e-1", "v5p-8"])
def test_a_product_compiles_for_a_device_that_is_not_there(name):
    if line := deviceless.missing(devices.parse(name)[0].platform):
        pytest.skip(f"needs {line}")
    found = deviceless.devices_of(name)
    assert len(found) == devices.parse(name)[1]
    assert devices.of_kind(found[0].device_kind) is devices.parse(name)[0]
    x = deviceless.place(jax.ShapeDtypeStruct((128, 256), jnp.bfloat16), found[0])
    compiled = jax.jit(lambda x: x @ x.T).trace(x).lower(**deviceless.lowering(found[0])).compile()
    assert compiled.memory_analysis().argument_size_in_bytes == 128 * 256 * 2
