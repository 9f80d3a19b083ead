import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import GOLDEN, listing, read_listing, rewritten, run_case, worst_excess
from flax import nnx

from histojax.models import sam
from histojax.models.blocks import in_order
from histojax.models.network import abstract
from histojax.models.sam import SAM_B, SAM_H, SAM_L, Sam, SamConfig, relative_attention, resize_table, turns
from histojax.weights.containers import open_tensors
from histojax.weights.trees import flatten, unflatten

TINY = SamConfig(16, 3, 2, (1,), window=3, image=64, features=4)


@pytest.mark.parametrize("name, count", [("sam_windowed", 12), ("sam_relpos_interp", 10)])
def test_golden(name, count):
    outputs, golden = run_case(name)
    excess = worst_excess(outputs, golden)
    assert len(excess) == count and max(excess.values()) < 1, excess


@pytest.mark.parametrize("choice", ["ln_eps_x10", "gelu_tanh"])
def test_wrong_choices_are_seen(choice):
    outputs, golden = run_case("sam_relpos_interp", only="features", choice=choice)
    assert worst_excess(outputs, golden)["features"] > 1.2


@pytest.mark.parametrize(
    "config, name, parameters",
    [
        (SAM_B, "sam_vit_b", 89_670_912),
        (SAM_B, "sam_vit_b_hf", 89_670_912),
        (SAM_B, "samvit_base_timm", 89_670_912),
        (SAM_L, "sam_vit_l", 308_278_272),
        (SAM_H, "sam_vit_h", 637_026_048),
    ],
)
def test_published_names(config, name, parameters):
    assert read_listing(config, listing(name)) == parameters


def test_layout_writes_what_it_read():
    stored = {k: v.numpy() for k, v in open_tensors(GOLDEN / "sam_windowed.pth").tensors.items()}
    written = rewritten("sam", stored)
    assert set(written) == {name for name in stored if name.startswith("image_encoder.")}
    for name, value in written.items():
        np.testing.assert_array_equal(value, stored[name])


def test_queries_in_turns_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 24, 3, 4)), jnp.float32) for _ in range(3))
    tables = {"rows": rng.normal(size=(11, 4)), "columns": rng.normal(size=(7, 4))}
    tables = {name: jnp.asarray(value, jnp.float32) for name, value in tables.items()}
    whole = relative_attention(q, k, v, size=(6, 4), **tables)
    monkeypatch.setattr(sam, "SCORES", 2 * 3 * 24 * 24 // 3)
    assert turns(6, 2 * 3 * 24 * 24) == 3
    np.testing.assert_allclose(relative_attention(q, k, v, size=(6, 4), **tables), whole, atol=1e-6)


def test_relative_attention_against_loops():
    rng = np.random.default_rng(1)
    height, width, dim = 2, 3, 4
    q, k, v = (rng.normal(size=(1, 6, 1, dim)).astype(np.float32) for _ in range(3))
    rows, columns = (rng.normal(size=(2 * n - 1, dim)).astype(np.float32) for n in (height, width))
    scores = np.empty((6, 6))
    for a in range(6):
        for b in range(6):
            (i, j), (m, n) = divmod(a, width), divmod(b, width)
            query = q[0, a, 0]
            scores[a, b] = query @ k[0, b, 0] / np.sqrt(dim)
            scores[a, b] += query @ rows[i - m + height - 1] + query @ columns[j - n + width - 1]
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    got = relative_attention(*map(jnp.asarray, (q, k, v)), rows=rows, columns=columns, size=(height, width))
    np.testing.assert_allclose(got[0, :, 0], weights @ v[0, :, 0], atol=1e-5)


def test_resize_table_has_half_pixel_centres():
    table = jnp.asarray([[0.0], [1.0], [2.0], [3.0]])
    expected = [0.0, 0.7, 1.5, 2.3, 3.0]  # places (i + 0.5) * 4/5 - 0.5 = -0.1, 0.7, 1.5, 2.3, 3.1, clipped
    np.testing.assert_allclose(resize_table(table, 3)[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(resize_table(table[:3], 2), table[:3])


def test_many_tables_load_in_order():
    """NNX pairs parameters by sorted keys, and as a string "10" sorts before "2"."""
    config = dataclasses.replace(TINY, depth=12, global_blocks=(2, 11))
    graph, shapes = abstract(config)
    paths = flatten(shapes)
    tree = unflatten({path: np.full(paths[path].shape, i) for i, path in enumerate(reversed(paths))})
    model = nnx.merge(graph, tree)
    for block in range(12):
        path = f"rel_pos/block{block}/h"
        assert in_order(model.rel_pos)[block].h[...].shape == paths[path].shape
        assert in_order(model.rel_pos)[block].h[0, 0] == flatten(tree)[path][0, 0]


def test_other_image_sizes_are_refused():
    graph, shapes = abstract(TINY)
    with pytest.raises(ValueError, match=r"\(N, 64, 64, 3\).*resize"):
        jax.eval_shape(lambda t: nnx.merge(graph, t)(jnp.zeros((1, 48, 64, 3))), shapes)


def test_parameters_are_strongly_typed():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        state = nnx.state(nnx.eval_shape(lambda: Sam(TINY, nnx.Rngs(0))))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
