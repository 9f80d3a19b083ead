"""config.json of the networks that are no plain ViT: every size is read off the tree, or refused."""

import json

import numpy as np
import pytest
from reading import read_tree
from vit_arrays import GOLDEN

from histojax.common.errors import UserError
from histojax.weights.family_configs import default_rule
from histojax.weights.library_configs import InputRule
from histojax.weights.write import check_target, write_weights

FILES = GOLDEN / "extractors"
RULE = InputRule(64, 56)


def tree_of(file):
    return read_tree(FILES / file).tree


def written(folder, family, tree, layout, **options):
    write_weights(folder, tree, layout, {}, family=family, chain=[], **{"rule": RULE, **options})
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def resnet(blocks=(3, 4, 6, 3), classes=0, stem=64):
    """A ResNet's tree of which only what the config reads has its shape."""
    one = np.zeros(1, np.float32)
    norm = dict.fromkeys(("scale", "bias", "mean", "var"), one)

    def block(width):
        kernels = {f"conv{i}": {"kernel": np.zeros((1, 1, 1, width), np.float32)} for i in (1, 2, 3)}
        return {**kernels, **{f"bn{i}": norm for i in (1, 2, 3)}}

    stages = {f"layer{i + 1}": {f"block{j}": block(64 << i) for j in range(n)} for i, n in enumerate(blocks)}
    tree = {"conv1": {"kernel": np.zeros((7, 7, 3, stem), np.float32)}, "bn1": norm, **stages}
    fc = {"kernel": np.zeros((2, classes), np.float32), "bias": np.zeros(classes, np.float32)}
    return tree | ({"fc": fc} if classes else {})


@pytest.mark.parametrize("classes", [0, 1000])
def test_a_resnet_says_whether_it_has_a_classifier(classes, tmp_path):
    found = written(tmp_path / "out", "resnet", resnet(classes=classes), "timm")
    config = found["config.json"]
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == classes
    text = (tmp_path / "out" / "README.md").read_text()
    assert ("num_classes=0" in text) == bool(classes)
    assert found["card.json"]["architecture"].get("classes", 0) == classes


@pytest.mark.parametrize("tree", [resnet((3, 4, 6)), resnet((2, 2, 2, 2)), resnet(stem=32)], ids=[3, 2, "stem"])
def test_a_resnet_that_timm_has_not_is_refused(tree, tmp_path):
    with pytest.raises(UserError, match=r"timm has no ResNet with stages of .*: export as torchvision"):
        written(tmp_path / "out", "resnet", tree, "timm")
    assert not list(tmp_path.iterdir())


def test_sam_in_both_libraries(tmp_path):
    timm = written(tmp_path / "timm", "sam", tree_of("sam_windowed.pth"), "timm")["config.json"]["model_args"]
    assert timm["global_attn_indexes"] == [1, 3] and timm["window_size"] == 4 and timm["num_heads"] == 4
    assert timm["img_size"] == 160 and timm["norm_layer"] == ""  # which is an epsilon of 1e-6 there
    found = written(tmp_path / "hf", "sam", tree_of("sam_windowed.pth"), "hf")
    hf = found["config.json"]
    assert hf["model_type"] == "sam_vision_model" and hf["global_attn_indexes"] == [1, 3] and hf["image_size"] == 160
    assert found["preprocessor_config.json"]["do_center_crop"] is True
    other = written(tmp_path / "eps", "sam", tree_of("sam_windowed.pth"), "timm", eps=1e-5)["config.json"]
    assert "norm_layer" not in other["model_args"]


def test_tables_of_sam_that_no_library_takes(tmp_path):
    for layout in ("timm", "hf"):
        with pytest.raises(UserError, match="cannot express tables of relative positions"):
            written(tmp_path / "out", "sam", tree_of("sam_relpos_interp.pth"), layout)
    assert written(tmp_path / "meta", "sam", tree_of("sam_relpos_interp.pth"), "meta").keys() == {"card.json"}


@pytest.mark.parametrize(
    "file, layer, shared, absolute, mean",
    [
        ("beit_perlayer_relpos.pth", True, False, False, True),
        ("beit_shared_relpos.pth", False, True, True, False),
        ("data2vec_vision.safetensors", False, True, False, False),
    ],
)
def test_beit_in_both_libraries(file, layer, shared, absolute, mean, tmp_path):
    timm = written(tmp_path / "timm", "beit", tree_of(file), "timm")["config.json"]["model_args"]
    assert (timm["use_rel_pos_bias"], timm["use_shared_rel_pos_bias"]) == (layer, shared)
    assert (timm["use_abs_pos_emb"], timm["global_pool"] == "avg") == (absolute, mean) and timm["num_heads"] == 4
    found = written(tmp_path / "hf", "beit", tree_of(file), "hf", eps=1e-12)
    hf = found["config.json"]
    assert hf["model_type"] == "beit" and hf["image_size"] == 80 and hf["layer_norm_eps"] == 1e-12
    assert (hf["use_relative_position_bias"], hf["use_shared_relative_position_bias"]) == (layer, shared)
    assert hf["use_mean_pooling"] is mean and "preprocessor_config.json" in found


def test_beit_without_tables_needs_its_heads(tmp_path):
    tree = tree_of("beit_shared_relpos.pth")
    with pytest.raises(UserError, match="--heads 8, but the tables of relative positions are for 4"):
        written(tmp_path / "out", "beit", tree, "timm", heads=8)
    del tree["shared_rel_pos"], tree["blocks"]["ls1"], tree["blocks"]["ls2"]
    with pytest.raises(UserError, match="how many attention heads it has: give --heads N"):
        written(tmp_path / "out", "beit", tree, "timm")
    config = written(tmp_path / "out", "beit", tree, "timm", heads=4)["config.json"]["model_args"]
    assert config["num_heads"] == 4 and config["init_values"] == 0 and config["img_size"] == 80


def test_swin_is_told_from_ctranspath(tmp_path):
    conv = tree_of("ctranspath_3stage.pth")
    with pytest.raises(
        UserError, match="timm has no Swin with CTransPath's convolutional stem: write it as ctranspath"
    ):
        check_target("swin", "timm", conv)
    kernel = np.zeros((48, conv["stem"]["norm"]["scale"].shape[0]), np.float32)
    proj = {"kernel": kernel, "bias": kernel[0]}
    plain = conv | {"stem": {"norm": conv["stem"]["norm"], "proj": proj}}
    with pytest.raises(UserError, match="which this Swin has not: write it as timm"):
        check_target("swin", "ctranspath", plain)
    config = written(tmp_path / "out", "swin", plain, "timm", rule=InputRule(112, 112))["config.json"]
    arguments = config["model_args"]
    assert arguments["depths"] == [2, 2, 2] and arguments["window_size"] == 7 and arguments["img_size"] == 112


def test_dinov3_has_a_processor_and_its_heads(tmp_path):
    tree = tree_of("hf_dinov3_vit.safetensors")
    found = written(tmp_path / "out", "dinov3", tree, "hf", heads=4, eps=1e-6)
    assert found["config.json"]["num_attention_heads"] == 4 and found["config.json"]["layer_norm_eps"] == 1e-6
    assert found["preprocessor_config.json"]["image_mean"] == list(RULE.mean)
    assert found["card.json"]["architecture"] == {"heads": 4, "eps": 1e-6, "registers": 4}


def test_the_usual_input_of_a_family():
    assert default_rule("sam", tree_of("sam_windowed.pth")) == InputRule(160, None, "bilinear")
    assert default_rule("beit", tree_of("data2vec_vision.safetensors")).size == 80
    assert default_rule("resnet", {}) == InputRule(224, 224)


# what is not known is said


def test_an_input_that_is_not_known_is_called_assumed_or_left_out(tmp_path):
    tree = tree_of("timm_lunit_like_bf16.safetensors")
    for layout in ("histojax", "meta"):
        path = write_weights(tmp_path / layout, tree, layout, {}, heads=4)
        card = json.loads((path.parent / "card.json").read_text())
        assert "preprocessing" not in card and "assumed" not in card
        assert "ImageNet" not in (path.parent / "README.md").read_text()
    for layout in ("timm", "hf"):
        path = write_weights(tmp_path / layout, tree, layout, {}, heads=4)
        card = json.loads((path.parent / "card.json").read_text())
        assert card["assumed"][0].startswith("the input in config.json (resize 32 bicubic, crop 32, ImageNet's mean")
        assert "> Assumed, not stated by the source: the input" in (path.parent / "README.md").read_text()
    trained = write_weights(tmp_path / "run", tree, "timm", {"recipe": {}}, heads=4)
    assert "assumed" not in json.loads((trained.parent / "card.json").read_text())


@pytest.mark.parametrize(
    "layout, eps, said",
    [
        ("timm", 1e-12, "norm_layer=partial(torch.nn.LayerNorm, eps=1e-12)"),
        ("timm", 1e-6, ""),
        ("meta", 1e-12, "module.eps = 1e-12"),
        ("hf", 1e-12, ""),
    ],
)
def test_an_epsilon_that_the_library_cannot_read_is_stated(layout, eps, said, tmp_path):
    tree = tree_of("timm_lunit_like_bf16.safetensors")
    path = write_weights(tmp_path / "out", tree, layout, {}, heads=4, eps=eps, rule=RULE)
    text, card = (path.parent / "README.md").read_text(), json.loads((path.parent / "card.json").read_text())
    assert ("epsilon" in card) == bool(said) == ("> **LayerNorm epsilon: this network has 1e-12" in text)
    assert said in text


@pytest.mark.parametrize(
    "layout, pooling, line",
    [
        ("timm", "cls+mean", "tokens[:, 5:].mean(1)"),
        ("hf", "cls", "features = model(x).last_hidden_state[:, 0]"),
        ("meta", "cls", "features = model(x)"),
        ("histojax", "cls", ""),
    ],
)
def test_the_readme_takes_the_feature(layout, pooling, line, tmp_path):
    tree = tree_of("timm_hoptimus_like.safetensors")
    tree["blocks"]["mlp"] = {  # a width that all can express
        "w12": {"kernel": np.ones((2, 32, 176), "f4"), "bias": np.ones((2, 176), "f4")},
        "w3": {"kernel": np.ones((2, 88, 32), "f4"), "bias": np.ones((2, 32), "f4")},
    }
    path = write_weights(tmp_path / "out", tree, layout, {"pooling": pooling}, heads=4, rule=RULE)
    text = (path.parent / "README.md").read_text()
    assert line in text and ("features = " in text) == bool(line)
