import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.parts import FIRST, merge
from histojax.ssl.choice import parse_choice
from histojax.ssl.trainable import split, whole
from histojax.weights.mapping import flatten

LAYER = {"kernel": jnp.arange(36.0).reshape(3, 3, 4), "bias": jnp.arange(12.0).reshape(3, 4)}
PARAMETERS = {
    "backbone": {
        "cls_token": jnp.ones((1, 1, 3)),
        "patch_embed": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)},
        "blocks": {"norm1": {"scale": jnp.ones((3, 3)), "bias": jnp.ones((3, 3))}, "mlp": {"fc1": LAYER}},
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
    },
    "dino_head": {"mlp_0": {"kernel": jnp.ones((3, 3))}},
}
ALL = {"blocks/norm1/scale", "blocks/norm1/bias", "blocks/mlp/fc1/kernel", "blocks/mlp/fc1/bias"}
NORM = {"norm/scale", "norm/bias"}
TRAINED = {  # word: leaves of the backbone
    "all": ALL | NORM | {"cls_token", "patch_embed/kernel", "patch_embed/bias"},
    "last:1": ALL | NORM,
    "last:3": ALL | NORM,
    "norms": ALL - {"blocks/mlp/fc1/kernel"} | NORM | {"patch_embed/bias"},
    "lora:2": {"blocks/mlp/fc1/lora_a", "blocks/mlp/fc1/lora_b"},
    "lora:2@last:1": {"blocks/mlp/fc1/lora_a", "blocks/mlp/fc1/lora_b"},
    "lora:0": set(),
}


def parts(word):
    return split(PARAMETERS, parse_choice(word, 3, 3), jax.random.key(1))


@pytest.mark.parametrize("word", TRAINED)
def test_each_leaf_is_in_one_part_and_the_whole_is_what_it_was(word):
    trainable, frozen = parts(word)
    assert set(flatten(trainable.get("backbone", {}))) == TRAINED[word]
    assert "dino_head" in trainable and "dino_head" not in frozen
    assert not set(flatten(trainable)) & set(flatten(frozen))
    assert all(flatten({"": part}) for part in (trainable, *([frozen] if word != "all" else [])))
    found = whole(merge(trainable, frozen))
    assert jax.tree.structure(found) == jax.tree.structure(PARAMETERS)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, PARAMETERS))


@pytest.mark.parametrize(("word", "chosen"), [("last:1", 1), ("last:2", 2), ("lora:2@last:1", 1), ("last:3", 3)])
def test_blocks_before_the_chosen_ones_are_apart(word, chosen):
    trainable, frozen = parts(word)
    assert all(len(leaf) == chosen for leaf in jax.tree.leaves(trainable["backbone"]["blocks"]))
    first = frozen["backbone"].get(FIRST, {})
    assert all(len(leaf) == 3 - chosen for leaf in jax.tree.leaves(first)) and bool(first) == (chosen < 3)


def test_trained_parts_come_back_in_their_place():
    trainable, frozen = parts("lora:2@last:2")
    layer = trainable["backbone"]["blocks"]["mlp"]["fc1"]
    layer["lora_b"] = jnp.ones_like(layer["lora_b"])
    found = whole(jax.device_get(merge(trainable, frozen)))["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(found[:1], LAYER["kernel"][:1])
    np.testing.assert_allclose(found[1:], LAYER["kernel"][1:] + layer["lora_a"].sum(-1, keepdims=True), rtol=1e-6)


def test_pairs_depend_on_the_key_alone():
    choice = parse_choice("lora:2", 3, 3)
    a, b, c = (split(PARAMETERS, choice, jax.random.key(i))[0]["backbone"] for i in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    assert not np.array_equal(*(t["blocks"]["mlp"]["fc1"]["lora_a"] for t in (a, c)))
