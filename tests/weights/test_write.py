import hashlib
import json

import numpy as np
import pytest
from parity_cases.backbones import backbone_tensors
from reading import read_to_train, read_tree
from safetensors.numpy import load_file
from vit_arrays import BACKBONES, GOLDEN, assert_same, state_dict

from histojax.common.errors import UserError
from histojax.weights import write
from histojax.weights.containers import open_tensors
from histojax.weights.detect import the_layout
from histojax.weights.families import FAMILIES
from histojax.weights.layouts.dinov2 import META
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import Link
from histojax.weights.safetensors_file import write_safetensors
from histojax.weights.trees import flatten
from histojax.weights.write import write_weights

FILES = GOLDEN / "extractors"
APACHE = Link("dinov2_vits14", "Apache-2.0", True, True)


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("layout", ["meta", "timm", "hf"])
def test_an_export_reads_back(model, layout, tmp_path):
    tree = META.read(state_dict(model, depth=2))[0]
    if layout == "hf" and "vitg" in model:
        tree["blocks"]["mlp"] = {  # a width that transformers' rule gives
            "w12": {"kernel": np.eye(16, 96, dtype="f4") * np.ones((2, 1, 1), "f4"), "bias": np.ones((2, 96), "f4")},
            "w3": {"kernel": np.eye(48, 16, dtype="f4") * np.ones((2, 1, 1), "f4"), "bias": np.ones((2, 16), "f4")},
        }
    path = write_weights(tmp_path / "out", tree, layout, {}, heads=4)
    back, report, _ = read_to_train(tmp_path / "out")
    assert not report.unused and path.name == "model.safetensors"
    if layout != "timm":
        assert_same(flatten(back), flatten(tree))
    else:
        np.testing.assert_array_equal(back["pos_embed"][:, 1:], tree["pos_embed"][:, 1:])
        np.testing.assert_array_equal(
            (back["cls_token"] + back["pos_embed"][:, :1]), tree["cls_token"] + tree["pos_embed"][:, :1]
        )
    assert (tmp_path / "out" / "config.json").exists() == (layout != "meta")


@pytest.mark.parametrize("heads", [-4, 0, 3])
@pytest.mark.parametrize("layout", ["meta", "timm", "hf", "histojax"])
def test_heads_that_no_such_network_can_have(layout, heads, tmp_path):
    tree = META.read(state_dict("dinov2_vits14", depth=2))[0]
    with pytest.raises(UserError, match=rf"--heads {heads}: the width of this network, 16, is no multiple"):
        write_weights(tmp_path / "out", tree, layout, {}, heads=heads)
    assert not (tmp_path / "out").exists()


def test_card_keeps_facts_hash_and_the_position_trap(tmp_path):
    tree = META.read(state_dict("dinov2_vits14", depth=2))[0]
    rule = InputRule(8, 6, "bilinear", (0.5,) * 3, (0.5,) * 3)
    path = write_weights(tmp_path / "out", tree, "timm", {"run": "abc"}, heads=4, rule=rule, chain=[APACHE])
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["run"] == "abc" and card["layout"] == "timm"
    assert card["licences"][0]["licence"] == "Apache-2.0" and card["commercial_use"] is True
    assert card["weights"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["parameters"] == sum(value.size for value in load_file(path).values())
    assert (
        "3 x 3" in card["positions"] and "6 px" in card["positions"] and "timm always antialiased" in card["positions"]
    )
    assert card["preprocessing"]["mean"] == [0.5] * 3
    stored = open_tensors(path).metadata
    assert stored["format"] == "pt" and "dinov2_vits14: Apache-2.0" in stored["licence"]
    assert "3 x 3" in stored["positions"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert config["interpolation"] == "bilinear" and config["crop_pct"] == 0.75


def test_the_readme_shows_what_a_licence_forbids(tmp_path):
    tree = META.read(state_dict("dinov2_vits14", depth=1))[0]
    chain = [Link("uni", "CC-BY-NC-ND-4.0", False, False, "pytorch_model.bin", "ab" * 32)]
    write_weights(tmp_path / "out", tree, "meta", {"name": "mine"}, heads=4, chain=chain)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-nc-nd-4.0\n") and "# mine" in text
    assert "**DERIVATIVES FORBIDDEN by the licence of uni" in text and "**No commercial use" in text
    assert "ab" * 32 in text and "DinoVisionTransformer(img_size=6" in text
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["commercial_use"] is False and card["derivatives"] is False


# bit for bit: what is read and written again


@pytest.mark.parametrize(
    "file",
    [
        "beit_perlayer_relpos.pth",
        "beit_shared_relpos.pth",
        "ctranspath_3stage.pth",
        "data2vec_vision.safetensors",
        "hf_dinov2reg_hibou_like.safetensors",
        "hf_dinov3_vit.safetensors",
        "hf_dinov3_vit_gated.safetensors",
        "resnet_imagenet.safetensors",
        "sam_relpos_interp.pth",
        "sam_windowed.pth",
        "timm_hoptimus_like.safetensors",
        "timm_lunit_like_dino_checkpoint.pth",
        "timm_uni_like_pytorch_model.bin",
        "timm_virchow2_like.safetensors",
    ],
)
def test_import_then_export_is_bit_equal(file, tmp_path):
    family, name, tree, report, _ = read_tree(FILES / file)
    target = {"hf-gated": "hf"}.get(name, name)
    assert target in FAMILIES[family].targets
    out = load_file(write_weights(tmp_path / "out", tree, target, {}, family=family, chain=[APACHE], heads=4))
    source = backbone_tensors(open_tensors(FILES / file).tensors)
    assert set(out) == set(report.matched)
    assert_same(out, {key: source[key].numpy() for key in out})
    own = write_weights(tmp_path / "own", tree, "histojax", {}, family=family, chain=[APACHE], heads=4)
    found = read_tree(own.parent)
    assert found[:2] == (family, "histojax")
    assert_same(flatten(found.tree), flatten(tree))


def test_our_own_file_keeps_what_no_other_layout_can_name(tmp_path):
    family, _, tree, *_ = read_tree(FILES / "imagebind.pth")
    with pytest.raises(UserError, match="unknown layout 'meta': ImageBind can be written as histojax"):
        write_weights(tmp_path / "out", tree, "meta", {}, family=family)
    path = write_weights(tmp_path / "out", tree, "histojax", {}, family=family)
    assert_same(flatten(read_tree(path, family="imagebind", expected=tree).tree), flatten(tree))
    with pytest.raises(UserError, match="another architecture, ImageBind; expected ViT"):
        read_tree(path, family="vit")
    with pytest.raises(UserError, match="no network under 'ema'; histojax's own files hold one"):
        read_tree(path, which="ema")
    with pytest.raises(UserError, match="has histojax's own layout, not 'timm'"):
        read_tree(path, layout="timm")


def test_positions_for_all_tokens_go_to_timm_as_they_are_and_to_others_with_a_class_row(tmp_path):
    tree = read_tree(FILES / "timm_virchow2_like.safetensors").tree
    wide = {"kernel": np.ones((2, 32, 176), np.float32), "bias": np.ones((2, 176), np.float32)}
    narrow = {"kernel": np.ones((2, 88, 32), np.float32), "bias": np.ones((2, 32), np.float32)}
    tree["blocks"] = {**tree["blocks"], "mlp": {"w12": wide, "w3": narrow}}  # a width that transformers can express
    write_weights(tmp_path / "out", tree, "timm", {}, heads=4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_args"]["no_embed_class"] is False
    names = write_weights(tmp_path / "hf", tree, "hf", {}, heads=4)
    assert load_file(names)["embeddings.position_embeddings"].shape == (1, 17, 32)


def test_hf_gets_ones_where_there_is_no_layerscale(tmp_path):
    tree = read_tree(FILES / "timm_lunit_like_bf16.safetensors").tree
    tensors = load_file(write_weights(tmp_path / "out", tree, "hf", {}, heads=4, eps=1e-12))
    assert (tensors["encoder.layer.1.layer_scale2.lambda1"] == 1).all() and "embeddings.mask_token" in tensors
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_norm_eps"] == 1e-12
    assert the_layout(tensors, family="vit")[0].name == "hf"


def test_unknown_layout(tmp_path):
    with pytest.raises(UserError, match="unknown layout 'onnx': ViT can be written as meta, timm, hf, histojax"):
        write_weights(tmp_path / "out", {}, "onnx", {})


def test_a_failed_export_leaves_nothing_and_keeps_the_old_one(tmp_path, monkeypatch):
    tree = META.read(state_dict("dinov2_vits14", depth=2))[0]
    before = write_weights(tmp_path / "out", tree, "meta", {"n": 1}, heads=4).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_safetensors", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(UserError, match=r"out: cannot be written \(disk full\)"):
            write_weights(tmp_path / "out", tree, "timm", {"n": 2}, heads=4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    write_weights(tmp_path / "out", tree, "meta", {"n": 3}, heads=4)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["n"] == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "card.json",
        "model.safetensors",
    ]


def test_an_older_export_leaves_no_files_of_its_own_behind(tmp_path):
    tree = META.read(state_dict("dinov2_vits14", depth=2))[0]
    write_weights(tmp_path / "out", tree, "hf", {}, heads=4)
    write_weights(tmp_path / "out", tree, "meta", {}, heads=4)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_folder_of_something_else_is_not_written_into(tmp_path):
    tree = META.read(state_dict("dinov2_vits14", depth=2))[0]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds config\.json, which no export wrote"):
        write_weights(tmp_path, tree, "timm", {}, heads=4)
    with pytest.raises(UserError, match="is a file"):
        write_weights(tmp_path / "config.json", tree, "timm", {}, heads=4)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# our own file: complete, or refused by name


@pytest.mark.parametrize(
    "file, family, lost",
    [
        ("timm_hoptimus_like.safetensors", "vit", "patch_embed/kernel"),
        ("timm_hoptimus_like.safetensors", "vit", "blocks/mlp/w3/bias"),
        ("timm_lunit_like_bf16.safetensors", "vit", "blocks/mlp/fc2/bias"),
        ("sam_windowed.pth", "sam", "rel_pos/block1/h"),
        ("ctranspath_3stage.pth", "swin", "stage0/downsample/reduction/kernel"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_our_own_file_is_read_strictly(file, family, lost, listed, tmp_path):
    path = write_weights(tmp_path / "out", read_tree(FILES / file).tree, "histojax", {}, family=family, heads=4)
    tensors, metadata = load_file(path), open_tensors(path).metadata
    if not listed:  # as written before names were listed
        metadata.pop("histojax_tensors")
    write_safetensors(path, {name: value for name, value in tensors.items() if name != lost}, metadata)
    with pytest.raises(UserError, match=rf"model\.safetensors: .*({lost}|incomplete|has \w+ only)"):
        read_tree(path)
    write_safetensors(path, tensors | {"foo/bar": np.ones(2, np.float32)}, metadata)
    with pytest.raises(UserError, match=r"1 tensors have no place in this network: foo/bar"):
        read_tree(path)


def test_our_own_file_without_an_optional_part_is_noticed(tmp_path):
    """Without its registers a ViT is a ViT still: only the list of names tells."""
    tree = read_tree(FILES / "timm_hoptimus_like.safetensors").tree
    path = write_weights(tmp_path / "out", tree, "histojax", {}, heads=4)
    tensors, metadata = load_file(path), open_tensors(path).metadata
    write_safetensors(path, {name: v for name, v in tensors.items() if name != "register_tokens"}, metadata)
    with pytest.raises(UserError, match="1 tensors are missing: register_tokens"):
        read_tree(path)
