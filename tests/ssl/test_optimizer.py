import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.ssl.optimizer import adam_state, adamw, clip, parameter_groups

SHAPES = {
    "backbone": {
        "pos_embed": (1, 5, 4),
        "patch_embed": {"kernel": (12, 4), "bias": (4,)},
        "blocks": {"norm1": {"scale": (2, 4)}, "attn": {"qkv": {"kernel": (2, 4, 12), "bias": (2, 12)}}},
        "norm": {"scale": (4,)},
    },
    "dino_head": {"mlp_0": {"kernel": (4, 4), "bias": (4,)}, "last_layer": {"g": (6,), "v": (6, 4)}},
}
PARAMS = jax.tree.map(
    lambda s: jnp.asarray(np.random.default_rng(sum(s)).normal(size=s), jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)
GRADIENTS = jax.tree.map(lambda p: jnp.cos(7 * p), PARAMS)
SCHEDULE = {"lr": np.float32(0.01), "last_layer_lr": np.float32(0.0), "weight_decay": np.float32(0.1)}


def groups(**how):
    return parameter_groups(PARAMS, depth=2, **{"layer_decay": 0.5, "patch_embed_lr": 0.2, **how})


def test_multipliers():
    g = groups()
    b = g["backbone"]
    assert b["pos_embed"].lr == 0.125 and b["pos_embed"].weight_decay == 1
    assert b["patch_embed"]["kernel"].lr == pytest.approx(0.025) and b["patch_embed"]["bias"].weight_decay == 0
    assert b["blocks"]["attn"]["qkv"]["kernel"].lr.ravel().tolist() == [0.25, 0.5]
    assert b["blocks"]["norm1"]["scale"].weight_decay == 0 and b["norm"]["scale"].lr == 1
    last = g["dino_head"]["last_layer"]
    assert last["g"].last_layer and last["g"].weight_decay == 1 and not g["dino_head"]["mlp_0"]["bias"].last_layer


def adamw_by_hand(p, g, lr, decay, steps):
    p, m, v = np.float64(p), 0.0, 0.0
    for t in range(1, steps + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p * (1 - lr * decay) - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def test_adamw_by_hand():
    params, state = PARAMS, adam_state(PARAMS)
    for _ in range(3):
        params, state = adamw(params, GRADIENTS, state, groups(), SCHEDULE, 0.9, 0.999)
    ours = params["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
    start, g = (t["backbone"]["blocks"]["attn"]["qkv"]["kernel"] for t in (PARAMS, GRADIENTS))
    for layer, lr in ((0, 0.0025), (1, 0.005)):
        np.testing.assert_allclose(
            ours[layer], adamw_by_hand(start[layer], np.float64(g[layer]), lr, 0.1, 3), rtol=2e-5, atol=1e-6
        )
    bias, start, g = (t["backbone"]["patch_embed"]["bias"] for t in (params, PARAMS, GRADIENTS))
    np.testing.assert_allclose(bias, adamw_by_hand(start, np.float64(g), 0.01 * 0.025, 0.0, 3), rtol=2e-5, atol=1e-6)


def test_frozen_last_layer_stands_still_but_gathers_moments():
    params, state = adamw(PARAMS, GRADIENTS, adam_state(PARAMS), groups(), SCHEDULE, 0.9, 0.999)
    for name in ("g", "v"):
        np.testing.assert_array_equal(params["dino_head"]["last_layer"][name], PARAMS["dino_head"]["last_layer"][name])
        assert np.any(state.mu["dino_head"]["last_layer"][name])


def test_each_submodule_is_clipped_alone():
    clipped, norms = clip(GRADIENTS, groups(), 1.0)
    for name in ("backbone", "dino_head"):
        norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(GRADIENTS[name])))
        assert float(norms[f"grad_norm/{name}"]) == pytest.approx(norm, rel=1e-5)
        after = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(clipped[name])))
        assert after == pytest.approx(norm / (norm + 1e-6) if norm > 1 else norm, rel=1e-5)
    same, _ = clip(GRADIENTS, groups(), 1e6)
    np.testing.assert_array_equal(same["backbone"]["pos_embed"], GRADIENTS["backbone"]["pos_embed"])


def test_frozen_entries_do_not_count_in_the_norm():
    _, norms = clip(GRADIENTS, groups(train="last:1"), 1.0)
    b = GRADIENTS["backbone"]
    kept = [
        b["norm"]["scale"],
        b["blocks"]["norm1"]["scale"][1],
        *(x[1] for x in b["blocks"]["attn"]["qkv"].values()),
    ]
    assert float(norms["grad_norm/backbone"]) == pytest.approx(
        np.sqrt(sum(float((x**2).sum()) for x in kept)), rel=1e-5
    )
