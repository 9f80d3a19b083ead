import jax
import jax.numpy as jnp
import numpy as np

from histojax.models.lora import absorb_pairs, add_pairs, has_pairs

BLOCKS = {
    "norm1": {"scale": jnp.ones((2, 4))},
    "attn": {
        "qkv": {"kernel": jnp.ones((2, 4, 12)), "bias": jnp.zeros((2, 12))},
        "proj": {"kernel": jnp.ones((2, 4, 4))},
    },
    "mlp": {"fc1": {"kernel": jnp.ones((2, 4, 8))}, "fc2": {"kernel": jnp.ones((2, 8, 4))}},
}


def test_every_kernel_gets_a_pair_that_changes_nothing_at_first():
    found = add_pairs(BLOCKS, 3, jax.random.key(0))
    assert has_pairs(found) and not has_pairs(BLOCKS)
    drawn = []
    for part, layer in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        depth, width, out = found[part][layer]["kernel"].shape
        a, b = found[part][layer]["lora_a"], found[part][layer]["lora_b"]
        assert a.shape == (depth, width, 3) and b.shape == (depth, 3, out) and not np.any(b)
        assert 0.5 * width**-0.5 < np.abs(a).max() <= width**-0.5
        drawn += [float(x) for x in a[:, 0, 0]]
    assert len(set(drawn)) == len(drawn)
    back = absorb_pairs(found)
    assert jax.tree.structure(back) == jax.tree.structure(BLOCKS)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, BLOCKS))


def test_a_pair_is_added_to_its_kernel_block_by_block():
    found = jax.device_get(add_pairs(BLOCKS, 3, jax.random.key(0)))
    layer = found["mlp"]["fc2"]
    layer["lora_b"] = np.random.default_rng(0).normal(size=layer["lora_b"].shape).astype(np.float32)
    merged = absorb_pairs(found)["mlp"]["fc2"]["kernel"]
    assert isinstance(merged, np.ndarray)
    for i in range(2):
        np.testing.assert_allclose(merged[i], 1 + layer["lora_a"][i] @ layer["lora_b"][i], rtol=1e-5)
