"""The models of bags: as recorded from HistoBistro, and unchanged by padding."""

import jax
import mil_cases
import numpy as np
import pytest

from histojax.evaluation.mil.bags import padded
from histojax.evaluation.mil.head_file import load_head
from histojax.evaluation.mil.models import bind, forward
from histojax.evaluation.mil.predict import attention, predict

TOLERANCE = {"atol": 3e-5, "rtol": 1e-5}
PUBLISHED = {
    "mil_transformer_binary.pth": {"heads": 4},
    "mil_transformer_multiclass_mean.ckpt": {"heads": 4, "pool": "mean"},
    "mil_attentionmil.pth": {},
}


@pytest.mark.parametrize("file", PUBLISHED)
def test_logits_and_attention_are_the_recorded_ones_also_when_padded(file):
    head = load_head(mil_cases.GOLDEN / file, **PUBLISHED[file])
    golden = np.load(mil_cases.GOLDEN / f"{file.split('.')[0]}.npz")
    bags = [mil_cases.bag(golden[name][0]) for name in ("bag1", "bag2")]
    expected = np.concatenate([golden["logits_bag1"], golden["logits_bag2"]])
    np.testing.assert_allclose(predict(head, bags), expected, **TOLERANCE)
    whole = np.ones((3, 37), bool)
    run = forward(head.settings)
    np.testing.assert_allclose(run(head.params, golden["batch"], whole), golden["logits_batch"], **TOLERANCE)
    if "tiles" in golden:
        there = np.arange(37) < golden["tiles"]
        np.testing.assert_allclose(run(head.params, golden["batch"], there), golden["logits_batch_tiles"], **TOLERANCE)
        weights = golden["attention_bag1"][0, :, 0]
    else:
        maps = bind(head.settings, head.params).maps(golden["bag1"], whole[:1])
        for i, one in enumerate(maps):
            np.testing.assert_allclose(one, golden[f"attention_{i}_bag1"], **TOLERANCE)
        last = golden["attention_1_bag1"][0].mean(axis=0)
        weights = last.mean(axis=0) if head.settings.pool == "mean" else last[0, 1:] / last[0, 1:].sum()
    np.testing.assert_allclose(attention(head, golden["bag1"][0]), weights, **TOLERANCE)


@pytest.mark.parametrize("name", mil_cases.SMALL)
def test_padding_changes_neither_logits_nor_gradients_nor_attention(name):
    head = mil_cases.head(name)
    x = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def run(params, bag, mask):
        return (bind(head.settings, params)(bag, mask) * np.arange(1, head.settings.outputs + 1)).sum()

    plain = run(head.params, x[None], np.ones((1, 11), bool))
    longer, mask = padded(x, 20)
    longer[0, 11:] = 1e3  # whatever stands there
    found = run(head.params, longer, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), plain, found)
    look = forward(head.settings, "attention")
    weights = np.asarray(look(head.params, longer, mask))
    np.testing.assert_allclose(weights[..., :11], look(head.params, x[None], np.ones((1, 11), bool)), atol=1e-6)
    assert not weights[..., 11:].any()


@pytest.mark.parametrize("name", [name for name in mil_cases.SMALL if name != "transmil"])  # it has a grid
def test_the_order_of_tiles_does_not_matter(name):
    head = mil_cases.head(name)
    x = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    logits = predict(head, [mil_cases.bag(x), mil_cases.bag(x[::-1])])
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)


def test_the_class_tokens_row_is_that_of_the_whole_layer():
    head = mil_cases.head("transformer")
    model = bind(head.settings, head.params)
    tokens, mask = model.tokens(*padded(np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)))
    layer = model.layers[1]
    np.testing.assert_allclose(layer.first(tokens, mask)[:, 0], layer(tokens, mask)[:, 0], atol=1e-6)
    np.testing.assert_allclose(layer.first_weights(tokens, mask), layer.weights(tokens, mask)[:, :, 0], atol=1e-6)


def test_dropout_needs_a_key_and_then_changes_the_logits():
    head = mil_cases.head("gated_attention")
    model = bind(head.settings, head.params)
    x, mask = padded(np.ones((3, 6), np.float32))
    np.testing.assert_array_equal(model(x, mask), model(x, mask))
    assert np.abs(model(x, mask, jax.random.key(0)) - model(x, mask)).max() > 1e-3
