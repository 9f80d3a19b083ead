"""Batches on devices: their size by itself, and programs that compilers of accelerators take, without one here."""

import jax
import numpy as np
import pytest
from tiny_encoders import encoder

from histojax.features.device import Devices, Model, automatic_size
from histojax.zoo.program import compiled_over


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_program_is_lowered_for_accelerators(platform, tokens):
    model = Model("tiny", encoder(), tokens)
    batch = jax.ShapeDtypeStruct((8, model.rule.side, model.rule.side, 3), np.uint8)
    traced = jax.jit(model.encoder.program(tokens)).trace(model.encoder.parameters, batch)
    assert "stablehlo.dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()
    assert [out.shape[1:] for out in jax.tree.leaves(traced.out_info)] == list(model.widths)


@pytest.mark.parametrize(
    ("backend", "side", "size"), [("cpu", 224, 8), ("cpu", 1024, 1), ("gpu", 224, 512), ("tpu", 28, 2048)]
)
def test_batches_are_smaller_for_larger_tiles(monkeypatch, backend, side, size):
    """Over two devices; a CPU is as fast with few tiles, and fills less up."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    devices = 1 if backend == "cpu" else 2
    assert (
        automatic_size([Model("tiny", encoder(side=28)), Model("other", encoder("other", side=side))], devices) == size
    )


def test_all_devices_give_the_features_of_one_and_compile_once_an_architecture():
    """Eight host devices, each with its rows; a second encoder, of other weights, finds the program compiled."""
    tiles = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    compiled_over.cache_clear()
    for seed in (0, 1):
        one = encoder(seed=seed)
        devices = Devices([Model(f"tiny{seed}", one)], 16)
        assert len(devices.devices) == len(jax.local_devices()) == 8
        [(features,)] = devices.start([tiles]).result()
        devices.close()
        np.testing.assert_allclose(features, one(tiles), atol=1e-5, rtol=1e-5)
    program, mesh = one.program(), devices._split.mesh
    assert compiled_over.cache_info().currsize == 1 and compiled_over(program, mesh)._cache_size() == 1
