import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from histojax.ssl.optimizer import ParameterGroup, adamw, clip, parameter_groups

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
SCHEDULE = {
    "lr": np.float32(0.01),
    "backbone_lr": np.float32(0.01),
    "last_layer_lr": np.float32(0.0),
    "weight_decay": np.float32(0.1),
}


def groups(params=None):
    return parameter_groups(PARAMS if params is None else params, depth=2, layer_decay=0.5, patch_embed_lr=0.2)


def rule(schedule=SCHEDULE):
    return adamw(groups(), schedule, 0.9, 0.999)


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
    params, state = PARAMS, rule().init(PARAMS)
    for _ in range(3):
        changes, state = rule().update(GRADIENTS, state, params)
        params = optax.apply_updates(params, changes)
    ours = params["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
    start, g = (t["backbone"]["blocks"]["attn"]["qkv"]["kernel"] for t in (PARAMS, GRADIENTS))
    for layer, lr in ((0, 0.0025), (1, 0.005)):
        np.testing.assert_allclose(
            ours[layer], adamw_by_hand(start[layer], np.float64(g[layer]), lr, 0.1, 3), rtol=2e-5, atol=1e-6
        )
    bias, start, g = (t["backbone"]["patch_embed"]["bias"] for t in (params, PARAMS, GRADIENTS))
    np.testing.assert_allclose(bias, adamw_by_hand(start, np.float64(g), 0.01 * 0.025, 0.0, 3), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "part"), [("last_layer_lr", ("dino_head", "last_layer")), ("backbone_lr", ("backbone",))]
)
def test_leaves_whose_rate_is_zero_stand_still_but_gather_moments(rate, part):
    start = rule().init(PARAMS)
    changes, state = rule(SCHEDULE | {"last_layer_lr": np.float32(0.01), rate: np.float32(0)}).update(
        GRADIENTS, start, PARAMS
    )
    changes, moments = (functools.reduce(dict.get, part, tree) for tree in (changes, state.mu))
    assert not any(np.any(x) for x in jax.tree.leaves(changes)) and all(np.any(x) for x in jax.tree.leaves(moments))


def test_some_blocks_have_the_multipliers_of_the_last_ones():
    shapes = {"backbone": {"blocks": {"kernel": jnp.zeros((2, 3, 3)), "lora_a": jnp.zeros((1, 3, 2))}}}
    blocks = parameter_groups(shapes, depth=5, layer_decay=0.5, patch_embed_lr=0.2)["backbone"]["blocks"]
    assert blocks["kernel"].lr.ravel().tolist() == [0.25, 0.5] and blocks["lora_a"].lr.ravel().tolist() == [0.5]


# what optax asks of a transformation


ONE = ParameterGroup(np.asarray(1.0), 1.0)


def plain(params, lr=0.1, decay=0.0):
    return adamw(jax.tree.map(lambda _: ONE, params), {"lr": lr, "weight_decay": decay})


def parabola(p):
    return sum(jnp.sum((x - 2.0) ** 2) for x in jax.tree.leaves(p))


def minimise(transformation, params, steps=400):
    @jax.jit
    def step(params, state):
        changes, state = transformation.update(jax.grad(parabola)(params), state, params)
        return optax.apply_updates(params, changes), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: optax.chain(optax.clip_by_global_norm(1.0), t), optax.flatten])
def test_it_converges_alone_and_in_optax_s_combinations(wrap):
    params = jnp.asarray([-1.0, 10.0]) if wrap is optax.flatten else {"a": jnp.asarray([-1.0, 10.0])}
    found = minimise(wrap(plain(params)), params)
    np.testing.assert_allclose(jax.tree.leaves(found)[0], 2.0, atol=1e-2)


def test_without_multipliers_it_is_optax_s_adamw():
    params = {"a": jnp.asarray([-1.0, 10.0]), "b": jnp.ones((2, 2))}
    theirs = optax.adamw(0.1, weight_decay=0.05)
    for ours, expected in zip(*(jax.tree.leaves(minimise(t, params, 20)) for t in (plain(params, 0.1, 0.05), theirs))):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes_and_structures_are_kept(dtype):
    params = {"a": jnp.ones(3, dtype), "b": {"c": jnp.ones((2, 2), dtype)}}
    transformation = plain(params)
    state = transformation.init(params)
    changes, after = jax.jit(transformation.update)(params, state, params)
    assert jax.tree.map(jnp.shape, changes) == jax.tree.map(jnp.shape, params)
    assert all(x.dtype == jnp.dtype(dtype) for x in jax.tree.leaves(changes))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


def test_it_asks_for_the_parameters():
    params = {"a": jnp.ones(3)}
    with pytest.raises(ValueError, match="needs the parameters"):
        plain(params).update(params, plain(params).init(params))


def test_each_submodule_is_clipped_alone():
    clipped, norms = clip(GRADIENTS, 1.0)
    for name in ("backbone", "dino_head"):
        norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(GRADIENTS[name])))
        assert float(norms[f"grad_norm/{name}"]) == pytest.approx(norm, rel=1e-5)
        after = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(clipped[name])))
        assert after == pytest.approx(norm / (norm + 1e-6) if norm > 1 else norm, rel=1e-5)
    same, _ = clip(GRADIENTS, 1e6)
    np.testing.assert_array_equal(same["backbone"]["pos_embed"], GRADIENTS["backbone"]["pos_embed"])
