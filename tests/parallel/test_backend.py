"""What jax is told before it starts on its devices."""

import pytest

from histojax.parallel import backend
from histojax.parallel.backend import GPU_SHARE, OTHER_SHARE_VARIABLE, SHARE_VARIABLE, start_backend


@pytest.mark.parametrize(
    "asked, given, told",
    [
        (True, {}, str(GPU_SHARE)),
        (True, {SHARE_VARIABLE: "0.5"}, "0.5"),
        (True, {OTHER_SHARE_VARIABLE: "0.5"}, None),
        (False, {}, None),
    ],
)
def test_a_training_takes_a_gpus_memory_unless_the_environment_says_how_much(monkeypatch, asked, given, told):
    environment = {"JAX_PLATFORMS": "cpu"} | given
    monkeypatch.setattr(backend.os, "environ", environment)
    monkeypatch.setattr(backend, "keep_compiled", lambda: None)
    start_backend(all_memory=asked)
    assert environment.get(SHARE_VARIABLE) == told
