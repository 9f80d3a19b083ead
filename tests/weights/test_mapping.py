import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.weights.mapping import Kind, TensorRule, from_tree, patch_kind, to_tree
from histojax.weights.trees import flatten, unflatten

RULES = (
    TensorRule("cls", "cls"),
    TensorRule("b.{layer}.fc.weight", "b/fc/kernel", "linear"),
    TensorRule(("b.{layer}.q", "0", "b.{layer}.v"), "b/qkv/bias"),
    TensorRule("layer{stage}.{block}.conv.weight", "stage{stage}/block{block}/kernel", "conv"),
    TensorRule("p.weight", "p/kernel", "patch"),
    TensorRule("g", "g", "column"),
    TensorRule("mask", "mask", optional=True),
)


def tensors(depth=11):
    draw = np.random.default_rng(0).standard_normal
    made = {"cls": draw((1, 1, 4)), "p.weight": draw((5, 3, 2, 2)), "g": draw((5, 1))}
    for layer in range(depth):
        made |= {f"b.{layer}.fc.weight": draw((6, 2)), f"b.{layer}.q": draw(3), f"b.{layer}.v": draw(3)}
    for stage in (1, 2):
        for block in range(2):
            made[f"layer{stage}.{block}.conv.weight"] = draw((4, 3, 2, 1))
    return {name: value.astype(np.float32) for name, value in made.items()}


def test_arrays_land_where_the_rules_say():
    source = tensors()
    tree, report = to_tree(source, RULES)
    report.raise_if_bad(tree)
    assert tree["b"]["fc"]["kernel"].shape == (11, 2, 6)
    np.testing.assert_array_equal(tree["b"]["fc"]["kernel"][10], source["b.10.fc.weight"].T)
    np.testing.assert_array_equal(tree["b"]["qkv"]["bias"][2, 3:6], 0)
    np.testing.assert_array_equal(tree["b"]["qkv"]["bias"][2, 6:], source["b.2.v"])
    np.testing.assert_array_equal(
        tree["stage2"]["block1"]["kernel"][1, 0, 2, 3], source["layer2.1.conv.weight"][3, 2, 1, 0]
    )
    # patch rows are ordered (row, column, channel)
    np.testing.assert_array_equal(tree["p"]["kernel"][(1 * 2 + 0) * 3 + 2], source["p.weight"][:, 2, 1, 0])
    assert tree["g"].shape == (5,)


def test_round_trip_is_bit_equal():
    source = tensors()
    back = from_tree(to_tree(source, RULES)[0], RULES)
    assert set(back) == set(source)
    for name, value in source.items():
        assert back[name].shape == value.shape and back[name].tobytes() == value.tobytes(), name


def test_report_says_what_was_not_used_and_what_is_missing():
    source = tensors() | {"head.w": np.zeros(3, np.float32), "odd": np.zeros(2, np.float16)}
    del source["b.3.v"]
    tree, report = to_tree(source, RULES, ignore=["head.*"])
    assert report.missing == ["b.3.v"] and report.unused == ["odd"] and report.ignored == ["head.w"]
    assert "1 missing (b.3.v)" in report.summary()
    assert "qkv" not in tree["b"]
    with pytest.raises(UserError, match=r"x\.pth: 1 tensors are missing: b\.3\.v"):
        report.raise_if_bad(file="x.pth")
    _, report = to_tree(source, RULES, allow_missing=["b.3.*"])
    assert report.missing == []


def test_whole_absent_stem_is_missing():
    source = {name: value for name, value in tensors().items() if not name.startswith("b.")}
    _, report = to_tree(source, RULES)
    assert "b.{layer}.fc.weight" in report.missing


def test_wrong_shape_names_key_and_both_shapes():
    tree, _ = to_tree(tensors(), RULES)
    source = tensors() | {"cls": np.zeros((1, 1, 5), np.float32)}
    _, report = to_tree(source, RULES)
    with pytest.raises(UserError, match=r"cls has shape \(1, 1, 5\) as cls, the model expects \(1, 1, 4\)"):
        report.raise_if_bad(tree, "x.pth")


def test_model_and_file_must_have_the_same_leaves():
    tree, report = to_tree(tensors(), RULES)
    with pytest.raises(UserError, match="the model needs registers"):
        report.raise_if_bad(tree | {"registers": (1, 4, 8)})
    with pytest.raises(UserError, match="the model has not: g"):
        report.raise_if_bad({name: leaf for name, leaf in tree.items() if name != "g"})


def test_layers_of_different_shape_are_a_problem_not_a_stack():
    _, report = to_tree(tensors() | {"b.1.fc.weight": np.zeros((6, 3), np.float32)}, RULES)
    with pytest.raises(UserError, match=r"b\.1\.fc\.weight has shape \(6, 3\) where b\.0\.fc\.weight has \(6, 2\)"):
        report.raise_if_bad()


def test_absurd_layer_number_is_refused_before_anything_is_allocated():
    with pytest.raises(UserError, match="layer number 99999999"):
        to_tree(tensors() | {"b.99999999.fc.weight": np.zeros((6, 2), np.float32)}, RULES)


def test_two_names_for_one_leaf_are_a_problem():
    rules = (TensorRule("a", "x", optional=True), TensorRule("b", "x", optional=True))
    both = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="both a and b"):
        to_tree(both, rules)[1].raise_if_bad()


def test_floats_are_cast_and_integers_stay():
    rules = (TensorRule("h", "h"), TensorRule("n", "n"))
    source = {"h": np.ones(2, np.float16), "n": np.ones(2, np.int64)}
    tree, report = to_tree(source, rules)
    assert tree["h"].dtype == np.float32 and tree["n"].dtype == np.int64
    assert "float16 x 1" in report.summary()
    assert to_tree(source, rules, dtype=None)[0]["h"].dtype == np.float16


def test_writing_refuses_leaves_without_a_name():
    tree, _ = to_tree(tensors(), RULES)
    with pytest.raises(UserError, match="no name for extra"):
        from_tree(tree | {"extra": np.zeros(1)}, RULES)
    assert "extra" not in from_tree(tree | {"extra": np.zeros(1)}, RULES, drop=["extra"])
    with pytest.raises(UserError, match="the tree has no g"):
        from_tree({name: leaf for name, leaf in tree.items() if name != "g"}, RULES)


def test_writing_refuses_to_lose_a_part_that_the_layout_has_no_name_for():
    tree, _ = to_tree(tensors(), RULES)
    tree["b"]["qkv"]["bias"][0, 4] = 1
    with pytest.raises(UserError, match="b/qkv/bias"):
        from_tree(tree, RULES)


def test_read_only_kinds_cannot_be_written():
    rules = (TensorRule("t", "t", Kind(lambda a: a.sum(0), None)),)
    tree, _ = to_tree({"t": np.ones((2, 3), np.float32)}, rules)
    np.testing.assert_array_equal(tree["t"], 2)
    with pytest.raises(UserError, match="cannot be written"):
        from_tree(tree, rules)


def test_patch_kind_of_other_channel_counts():
    kernel = np.arange(2 * 1 * 3 * 3).reshape(2, 1, 3, 3)
    kind = patch_kind(1)
    np.testing.assert_array_equal(kind.encode(kind.decode(kernel)), kernel)


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
