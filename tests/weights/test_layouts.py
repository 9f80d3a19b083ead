import numpy as np
import pytest
from safetensors.numpy import load_file
from vit_arrays import BACKBONES, GOLDEN, assert_same, head, state_dict

from histojax.weights.layouts.dinov2 import META, read_head, write_head
from histojax.weights.layouts.hf_vit import HF_DINOV2
from histojax.weights.layouts.timm_vit import TIMM
from histojax.weights.trees import flatten
from histojax.weights.vit_tree import positions_of, with_class_row


def leaves(tree):
    return flatten(tree)


@pytest.mark.parametrize("model", BACKBONES)
def test_meta_round_trip(model):
    source = state_dict(model)
    tree, report = META.read(source)
    assert not report.missing and not report.unused and not report.problems
    assert_same(META.write(tree), source)


@pytest.mark.parametrize("model", BACKBONES)
def test_tree_is_the_one_of_our_vit(model):
    tree, _ = META.read(state_dict(model))
    swiglu = "vitg" in model
    shapes = {path: leaf.shape for path, leaf in leaves(tree).items()}
    assert shapes["patch_embed/kernel"] == (2 * 2 * 3, 16) and shapes["blocks/attn/qkv/kernel"] == (11, 16, 48)
    assert shapes["blocks/ls1/gamma"] == (11, 16) and shapes["norm/scale"] == (16,)
    assert ("blocks/mlp/w12/kernel" in shapes) == swiglu and ("blocks/mlp/fc1/kernel" in shapes) != swiglu
    assert ("register_tokens" in shapes) == ("reg4" in model)
    assert len(shapes) == 21 + ("reg4" in model)


@pytest.mark.parametrize("model", BACKBONES)
def test_hf_round_trip(model):
    tree, _ = META.read(state_dict(model))
    written = HF_DINOV2.write(tree)
    back, report = HF_DINOV2.read(written)
    assert not report.missing and not report.unused
    assert_same(leaves(back), leaves(tree))
    assert_same(HF_DINOV2.write(back), written)
    query = written["encoder.layer.10.attention.attention.value.weight"]
    np.testing.assert_array_equal(query, state_dict(model)["blocks.10.attn.qkv.weight"][32:])


@pytest.mark.parametrize("model", BACKBONES)
def test_timm_round_trip(model):
    source = state_dict(model)
    tree, _ = META.read(source)
    written = TIMM.write(tree)
    assert "mask_token" not in written and not any("w12" in name for name in written)
    back, report = TIMM.read(written)
    assert not report.missing and not report.unused
    assert_same(TIMM.write(back), written)
    if "reg4" not in model:
        del tree["mask_token"]
        assert_same(leaves(back), leaves(tree))


@pytest.mark.parametrize("model", [name for name in BACKBONES if "reg4" in name])
def test_timm_registers_fold_the_class_position(model):
    source = state_dict(model)
    written = TIMM.write(META.read(source)[0])
    np.testing.assert_array_equal(written["cls_token"], source["cls_token"] + source["pos_embed"][:, :1])
    np.testing.assert_array_equal(written["pos_embed"], source["pos_embed"][:, 1:])
    np.testing.assert_array_equal(written["reg_token"], source["register_tokens"])
    back = with_class_row(TIMM.read(written)[0])
    assert positions_of(back) == "cls"
    # what the network adds up is the same: class token + its position, patches + theirs
    np.testing.assert_array_equal(back["cls_token"] + back["pos_embed"][:, :1], written["cls_token"])
    np.testing.assert_array_equal(back["pos_embed"][:, 1:], source["pos_embed"][:, 1:])


def test_timm_positions_for_all_tokens_fold_into_the_registers():
    tree, report = TIMM.read(load_file(GOLDEN / "extractors" / "timm_virchow2_like.safetensors"))
    report.raise_if_bad()
    assert positions_of(tree) == "all"
    folded = with_class_row(tree)
    assert folded["pos_embed"].shape == (1, 17, 32) and folded["register_tokens"].shape == (1, 4, 32)

    def tokens(tree, spread):
        extra = np.zeros((1, 16, 32), np.float32)
        prefix = np.concatenate([tree["cls_token"], tree["register_tokens"], extra], axis=1)
        return prefix + spread(tree["pos_embed"])

    def insert(rows):
        return np.concatenate([rows[:, :1], np.zeros((1, 4, 32), np.float32), rows[:, 1:]], axis=1)

    np.testing.assert_allclose(tokens(folded, insert), tokens(tree, lambda rows: rows), atol=1e-6)


def test_timm_positions_for_patches_only():
    tree, _ = TIMM.read(load_file(GOLDEN / "extractors" / "timm_hoptimus_like.safetensors"))
    assert positions_of(tree) == "patches"
    folded = with_class_row(tree)
    np.testing.assert_array_equal(folded["pos_embed"][:, 1:], tree["pos_embed"])
    np.testing.assert_array_equal(folded["pos_embed"][:, :1], 0)
    assert "w12" in tree["blocks"]["mlp"]


def test_timm_reads_models_without_layerscale():
    tree, report = TIMM.read(load_file(GOLDEN / "extractors" / "timm_lunit_like_bf16.safetensors"))
    report.raise_if_bad()
    assert "ls1" not in tree["blocks"] and set(tree["blocks"]["mlp"]) == {"fc1", "fc2"}
    assert all(leaf.dtype == np.float32 for leaf in leaves(tree).values())


def test_hf_swiglu_file():
    source = load_file(GOLDEN / "extractors" / "hf_dinov2reg_hibou_like.safetensors")
    tree, report = HF_DINOV2.read(source)
    report.raise_if_bad()
    assert not report.unused
    assert_same(HF_DINOV2.write(tree), source)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_heads_round_trip(layers):
    source = head(layers)
    tree, report = read_head(source)
    report.raise_if_bad()
    assert not report.unused
    assert set(tree) == ({"mlp"} if layers == 1 else {f"mlp_{2 * i}" for i in range(layers)}) | {"last_layer"}
    assert tree["last_layer"]["g"].shape == (20,) and tree["last_layer"]["v"].shape == (20, 6)
    assert_same(write_head(tree), source)


def test_incomplete_head_names_what_is_missing():
    source = head()
    del source["last_layer.weight_g"]
    assert read_head(source)[1].missing == ["last_layer.weight_g"]


@pytest.mark.parametrize("name", ["mlp_noreg", "swiglu_reg4"])
def test_parameters_of_the_reference_goldens(name):
    with np.load(GOLDEN / "dinov2" / f"features_{name}.npz") as arrays:
        source = {key.removeprefix("param/"): arrays[key] for key in arrays if key.startswith("param/")}
    tree, report = META.read(source)
    report.raise_if_bad()
    assert not report.unused and len(report.matched) == len(source)
    assert_same(META.write(tree), source)
