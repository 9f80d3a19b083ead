import numpy as np
import pytest
from vit_arrays import BACKBONES, MODELS, head, state_dict

from histojax.common.errors import UserError
from histojax.weights.unwrap import clean_names, split_modules


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_fsdp_wrapped_module.",
        "model.",
        "encoder_q.",
        "module.model.",
    ],
)
def test_prefixes_that_all_names_share_are_removed(prefix):
    source = state_dict("dinov2_vits14", depth=2)
    names, notes = clean_names(prefixed(prefix, source))
    assert set(names) == set(source) and notes


def test_clean_names_stay_clean_without_notes():
    source = state_dict("dinov2_vits14", depth=2)
    assert clean_names(source) == (source, [])


def test_wrappers_inside_names_are_removed():
    names, _ = clean_names(
        {"backbone._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.norm1.weight": 1, "norm.weight": 2}
    )
    assert set(names) == {"backbone.blocks.0.norm1.weight", "norm.weight"}


def test_a_prefix_that_some_names_lack_stays():
    source = {"model.a": 1, "projector.weight": 2}
    assert clean_names(source)[0] == source


@pytest.mark.parametrize(
    "names, backbone, rest",
    [
        (["model.a", "model.head.b", "criterion.pos_weight"], ["a", "head.b"], ["criterion.pos_weight"]),
        (["module.a", "n_averaged"], ["a"], ["n_averaged"]),
        (["model.a", "head.weight", "head.bias"], ["a"], ["head.weight", "head.bias"]),
        (["module.encoder_q.a", "module.encoder_k.a", "module.queue"], ["a"], ["encoder_k.a", "queue"]),
        (["model.backbone.a", "model.head.b", "loss.w"], ["a"], ["head.b", "loss.w"]),
    ],
)
def test_names_that_no_encoder_needs_may_lack_the_prefix(names, backbone, rest):
    modules = split_modules(clean_names({name: name for name in names})[0])
    assert {name: list(part) for name, part in modules.items()} == {"backbone": backbone, "rest": rest}
    with pytest.raises(UserError, match=r"head\.weight is in the file twice"):
        clean_names({"model.backbone.a": 1, "model.head.weight": 2, "head.weight": 3})


def full_training_state():
    """As facebookresearch/dinov2 writes model_*.rank_0.pth: both sides, heads and the centres."""
    made = {"dino_loss.center": np.zeros((1, 4))}
    for number, side in enumerate(("student", "teacher")):
        backbone = prefixed(f"{side}.backbone._fsdp_wrapped_module.", state_dict("dinov2_vits14", depth=2, seed=number))
        made |= backbone | prefixed(f"{side}.dino_head.", head(seed=number))
    return made


def test_sides_of_a_training_state():
    teacher, notes = clean_names(full_training_state())
    assert any("took the teacher" in note for note in notes)
    modules = split_modules(teacher)
    assert set(modules) == {"backbone", "dino_head"}
    np.testing.assert_array_equal(
        modules["backbone"]["norm.weight"], state_dict("dinov2_vits14", depth=2, seed=1)["norm.weight"]
    )
    student = split_modules(clean_names(full_training_state(), "student")[0])
    np.testing.assert_array_equal(student["dino_head"]["mlp.0.bias"], head(seed=0)["mlp.0.bias"])
    only = {name: value for name, value in full_training_state().items() if not name.startswith("student")}
    with pytest.raises(UserError, match="teacher parameters but no student"):
        clean_names(only, "student")


def test_weight_norm_parametrisation():
    source = {"last_layer.parametrizations.weight.original0": 1, "last_layer.parametrizations.weight.original1": 2}
    assert clean_names(source)[0] == {"last_layer.weight_g": 1, "last_layer.weight_v": 2}


@pytest.mark.parametrize("model, depth", [("train_vitl14_chunks4", 24), ("train_vitg14_chunks4", 40)])
def test_chunked_names_of_the_reference(model, depth):
    chunked = [f"{block}.norm1.weight" for block in MODELS[model]["block_names"]] + [*MODELS[model]["mlp_shapes"]]
    names, notes = clean_names({name: position for position, name in enumerate(chunked)})
    assert any("chunked" in note for note in notes)
    assert [names[f"blocks.{layer}.norm1.weight"] for layer in range(depth)] == list(range(depth))
    assert "blocks.0.mlp.w12.weight" in names and len(names) == depth + 4


def test_names_that_collide_are_an_error():
    with pytest.raises(UserError, match="fall on one name"):
        clean_names({"blocks.0.1.w": 1, "blocks.1.1.w": 2})


def test_modules_of_other_files():
    assert set(split_modules(head())) == {"dino_head"}
    assert set(split_modules(state_dict(BACKBONES[0], depth=1))) == {"backbone"}
    modules = split_modules({"backbone.a": 1, "head.b": 2, "ibot_head.c": 3})
    assert modules == {"backbone": {"a": 1}, "rest": {"head.b": 2}, "ibot_head": {"c": 3}}
    assert split_modules({"dinov2.a": 1, "classifier.b": 2}) == {"backbone": {"a": 1}, "rest": {"classifier.b": 2}}
