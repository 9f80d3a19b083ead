import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from histojax.models import vit
from histojax.models.layers import attention, swiglu_hidden
from histojax.models.vit import Block, ViT, ViTConfig, drop_residual, vit_config

TINY = ViTConfig(32, 3, 4, patch=7, image=28, layerscale=1.0)
IMAGES = jax.random.normal(jax.random.key(1), (4, 28, 28, 3))


def build(**changes):
    return ViT(dataclasses.replace(TINY, **changes), nnx.Rngs(0))


def test_blocks_are_stacked_and_differ():
    params = nnx.to_pure_dict(nnx.state(build()))
    kernel = params["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.shape == (3, 32, 96) and not np.array_equal(kernel[0], kernel[1])
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in jax.tree.leaves(params))


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_shapes(registers, ffn):
    out = build(registers=registers, ffn=ffn)(IMAGES)
    assert out["cls"].shape == (4, 32) and out["registers"].shape == (4, registers, 32)
    assert out["patches"].shape == (4, 16, 32) and out["prenorm"].shape == (4, 17 + registers, 32)


def test_masked_patches_no_longer_depend_on_their_pixels():
    model = build()
    masks = jnp.zeros((4, 16), bool).at[:, 5].set(True)
    changed = IMAGES.at[:, 7:14, 7:14].add(5.0)  # the pixels of patch 5
    np.testing.assert_array_equal(model(IMAGES, masks)["cls"], model(changed, masks)["cls"])
    assert not np.allclose(model(IMAGES)["cls"], model(changed)["cls"])


def test_sides_must_be_multiples_of_the_patch():
    with pytest.raises(ValueError, match=r"28x30.*multiples of the patch, 7"):
        build()(jnp.zeros((1, 28, 30, 3)))


def test_intermediate_layers():
    model = build(registers=2)
    last = model.intermediate(IMAGES, 2)
    assert len(last) == 2 and last[0]["patches"].shape == (4, 16, 32)
    np.testing.assert_allclose(last[1]["cls"], model(IMAGES)["cls"], atol=1e-6)
    np.testing.assert_allclose(model.intermediate(IMAGES, (1,))[0]["cls"], last[0]["cls"], atol=1e-6)


@pytest.mark.parametrize("positions", ["cls", "patches", "all"])
def test_rows_of_the_position_table(positions):
    model = build(registers=2, positions=positions)
    assert model.pos_embed[...].shape[1] == {"cls": 17, "patches": 16, "all": 19}[positions]
    front, patches = model.positions((4, 4))
    assert front.shape == (1, 3, 32) and patches.shape == (1, 16, 32)
    assert np.any(front[:, 0]) == (positions != "patches") and np.any(front[:, 1:]) == (positions == "all")


@pytest.mark.parametrize("tokens", [5, 17])
def test_attention_implementations_agree(tokens):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, tokens, 3, 8)) * 3
    plain = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * 8**-0.5) @ v.swapaxes(1, 2)
    for how in ("einsum", "xla"):
        np.testing.assert_allclose(attention(q, k, v, how), plain.swapaxes(1, 2), atol=1e-5)


def test_stochastic_depth_keeps_the_expected_value():
    x = jax.random.normal(jax.random.key(0), (8, 3, 4))
    keys = jax.random.split(jax.random.key(1), 4000)
    runs = jax.vmap(lambda k: drop_residual(k, x, lambda y: jnp.sin(3 * y), 0.4, 2))(keys)
    error = runs.std(0) / len(keys) ** 0.5
    assert np.all(np.abs(runs.mean(0) - (x + jnp.sin(3 * x))) < 5 * error + 1e-5)
    changed = np.any(np.asarray(runs) != np.asarray(x), axis=(2, 3)).reshape(-1, 2, 4).sum(-1)
    assert np.all(changed == 2)  # floor(4 * 0.6) of the 4 rows of each group


@pytest.mark.parametrize("uniform", [True, False])
def test_stochastic_depth_in_the_network(uniform):
    model = build(drop_path=0.5, drop_path_uniform=uniform)
    plain = build()(IMAGES)["cls"]
    np.testing.assert_array_equal(model(IMAGES)["cls"], plain)  # without a key: none
    a, b = (model(IMAGES, key=jax.random.key(i))["cls"] for i in (0, 1))
    assert not np.allclose(a, plain) and not np.allclose(a, b)
    np.testing.assert_array_equal(a, model(IMAGES, key=jax.random.key(0))["cls"])
    np.testing.assert_array_equal(build(drop_path=0.0)(IMAGES, key=jax.random.key(0))["cls"], plain)


def rows_changed(block, key, branch):
    """(N,) bool: the images of which a block computes one of its two branches, the other one set to nothing."""
    graph, params = nnx.split(block)
    params = nnx.to_pure_dict(params)
    off = params["mlp"]["fc2"] if branch == "attention" else params["attn"]["proj"]
    off["kernel"], off["bias"] = jnp.zeros_like(off["kernel"]), jnp.zeros_like(off["bias"])
    x = jax.random.normal(jax.random.key(0), (8, 5, 32))
    return np.asarray(nnx.merge(graph, params)(x, 0.5, key) != x).any((1, 2))


def test_attention_and_feed_forward_are_dropped_separately():
    block = Block(TINY, nnx.Rngs(0))
    kept = [
        [rows_changed(block, jax.random.key(i), branch).tolist() for branch in ("attention", "feed")] for i in range(6)
    ]
    assert all(sum(rows) == 4 for pair in kept for rows in pair)
    assert any(a != b for a, b in kept)
    assert len({tuple(a) for a, _ in kept}) > 1


def test_rates_rise_linearly_over_the_blocks_unless_uniform(monkeypatch):
    rates = []

    def record(key, x, branch, rate, shards):
        rates.append(rate)
        return x + branch(x)

    monkeypatch.setattr(vit, "drop_residual", record)
    build(drop_path=0.4, drop_path_uniform=False)(IMAGES, key=jax.random.key(0))
    assert rates == pytest.approx([0.2, 0.2, 0.4, 0.4])  # the first block has none
    rates.clear()
    build(drop_path=0.4)(IMAGES, key=jax.random.key(0))
    assert rates == [0.4, 0.4]  # one scanned body


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("remat", ["none", "dots", "block"])
def test_the_scan_over_blocks_equals_a_loop(drop, remat):
    graph, state = nnx.split(build(drop_path=drop, remat=remat))
    params, key = nnx.to_pure_dict(state), jax.random.key(4)

    def scanned(params):
        return nnx.merge(graph, params)(IMAGES, key=key)["cls"]

    def looped(params):
        model = nnx.merge(graph, params)
        block, x = nnx.graphdef(model.blocks), model.embed(IMAGES)
        for i, own in enumerate(jax.random.split(key, TINY.depth)):
            layer = jax.tree.map(lambda p: p[i], params["blocks"])  # noqa: B023
            x = nnx.merge(block, layer)(x, drop, own)
        return model.norm(x)[:, 0]

    np.testing.assert_allclose(jax.jit(scanned)(params), jax.jit(looped)(params), atol=1e-6, rtol=1e-6)
    a, b = (jax.jit(jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p)))))(params) for f in (scanned, looped))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert np.abs(x - y).max() <= 1e-5 * np.linalg.norm(x) + 1e-7


@pytest.mark.parametrize("uniform", [True, False])
def test_first_blocks_apart_change_nothing(uniform):
    """Their number, their stochastic depth and its random numbers count from the first one on."""
    graph, state = nnx.split(build(drop_path=0.4, drop_path_uniform=uniform))
    params, key = nnx.to_pure_dict(state), jax.random.key(4)
    first, rest = (jax.tree.map(lambda x, part=part: x[part], params["blocks"]) for part in (slice(1), slice(1, None)))
    plain = nnx.merge(graph, params)(IMAGES, key=key)["cls"]
    apart = nnx.merge(graph, {**params, "blocks": rest})(IMAGES, key=key, first_blocks=first)["cls"]
    np.testing.assert_allclose(plain, apart, rtol=1e-6, atol=1e-6)


def test_initial_distributions():
    params = nnx.to_pure_dict(nnx.state(ViT(vit_config("vit_tiny", image=224), nnx.Rngs(0))))
    kernel = np.asarray(params["blocks"]["mlp"]["fc1"]["kernel"])
    assert kernel.std() == pytest.approx(0.02, rel=0.01) and abs(kernel).max() > 0.08  # not cut at two sigma
    bound = 588**-0.5
    assert abs(params["patch_embed"]["kernel"]).max() <= bound and abs(params["patch_embed"]["bias"]).max() <= bound
    assert params["cls_token"].std() < 1e-5 and not np.any(params["mask_token"])
    assert np.all(np.asarray(params["blocks"]["ls1"]["gamma"]) == np.float32(1e-5))


@pytest.mark.parametrize(
    ("size", "registers", "count"),
    [
        ("vit_small", 0, 22_056_576),
        ("vit_base", 4, 86_583_552),
        ("vit_large", 0, 304_368_640),
        ("vit_giant2", 4, 1_136_486_912),
    ],
)
def test_parameter_counts_of_the_released_models(size, registers, count):
    shapes = nnx.eval_shape(lambda: ViT(vit_config(size, registers=registers), nnx.Rngs(0)))
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(shapes))) == count


def test_swiglu_widths():
    assert swiglu_hidden(1536) == 4096 and swiglu_hidden(1024) == 2736
