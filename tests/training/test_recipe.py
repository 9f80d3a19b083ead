import jax.numpy as jnp
import pytest

from histojax.training import recipe


@pytest.mark.parametrize(
    "asked, dtype, platform, fault, expected",
    [
        ("auto", jnp.float32, "cpu", None, "einsum"),
        ("auto", jnp.bfloat16, "cpu", None, "xla"),
        ("auto", jnp.bfloat16, "gpu", None, "cudnn"),
        ("auto", jnp.bfloat16, "gpu", "cuDNN not found.", "xla"),
        ("auto", jnp.float32, "gpu", None, "einsum"),
        ("auto", jnp.bfloat16, "tpu", None, "xla"),
        ("einsum", jnp.bfloat16, "gpu", None, "einsum"),
    ],
)
def test_attention_by_platform(monkeypatch, asked, dtype, platform, fault, expected):
    monkeypatch.setattr(recipe, "cudnn_fault", lambda width: fault)
    assert recipe.attention_for(asked, 64, dtype, platform) == expected
