"""Within the loop nothing goes between host and devices by accident; whole runs are in tests/test_train.py."""

import jax
import numpy as np
import pytest

from histojax.training.loop import Loop

add = jax.jit(lambda x, y: x + y)


def train(monkeypatch, body):
    monkeypatch.setattr(Loop, "_train", lambda self: body())
    Loop.train(object.__new__(Loop))


def test_a_transfer_that_nobody_asked_for_is_an_error(monkeypatch):
    x = jax.device_put(np.float32(1))
    train(monkeypatch, lambda: jax.device_get(add(x, jax.device_put(np.float32(2)))))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(monkeypatch, lambda: add(x, np.float32(2)))
    assert float(add(x, np.float32(2))) == 3
