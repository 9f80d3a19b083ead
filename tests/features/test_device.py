"""Batches on devices: their size by itself, and programs that compilers of accelerators take, without one here."""

import jax
import numpy as np
import pytest
from tiny_encoders import encoder

from histojax.features.device import Model, automatic_size


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
