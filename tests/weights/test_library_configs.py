from dataclasses import replace

import pytest
from vit_arrays import BACKBONES, state_dict

from histojax.common.errors import UserError
from histojax.weights.layouts.dinov2 import META
from histojax.weights.library_configs import (
    InputRule,
    Shape,
    architecture,
    hf_config,
    hf_preprocessor,
    meta_call,
    timm_config,
)

PUBLISHED = {"vits": (384, 12, 1536), "vitb": (768, 12, 3072), "vitl": (1024, 24, 4096), "vitg": (1536, 40, 4096)}
RULE = InputRule(224, 224)


def published(model):
    """Shape of a published model, as architecture() would give it."""
    dim, depth, hidden = PUBLISHED[model[len("dinov2_") :][:4]]
    ffn = "swiglu" if "vitg" in model else "mlp"
    return Shape(dim, depth, dim // 64, 14, 224, 4 if "reg4" in model else 0, ffn, hidden, True, "cls")


def test_architecture_of_a_tree():
    found = architecture(META.read(state_dict("dinov2_vitg14_reg4", depth=5))[0], heads=2)
    assert found == Shape(16, 5, 2, 2, 6, 4, "swiglu", 40, True, "cls")
    with pytest.raises(UserError, match="attention heads"):
        architecture(META.read(state_dict("dinov2_vits14", depth=1))[0])


@pytest.mark.parametrize("model", BACKBONES)
def test_timm_names_of_the_published_sizes(model):
    config = timm_config(published(model), RULE)
    size = {"s": "small", "b": "base", "l": "large", "g": "giant"}[model[len("dinov2_vit")]]
    registers = "reg4_" if "reg4" in model else ""
    assert config["architecture"] == f"vit_{size}_patch14_{registers}dinov2"
    assert config["model_args"] == {"img_size": 224} and config["num_classes"] == 0
    assert config["pretrained_cfg"]["input_size"] == [3, 224, 224]


def test_timm_arguments_of_other_sizes():
    changes = {"ffn": "swiglu", "hidden": 2736, "registers": 8, "patch": 16, "layerscale": False}
    config = timm_config(replace(published("dinov2_vitl14"), **changes), InputRule(256, 224, "bilinear"))
    arguments = config["model_args"]
    assert config["architecture"] == "vit_giant_patch14_reg4_dinov2" and config["model_args"]["init_values"] is None
    assert int(1024 * arguments["mlp_ratio"]) == 2 * 2736  # as timm computes the width
    assert arguments["embed_dim"] == 1024 and arguments["depth"] == 24 and arguments["num_heads"] == 16
    assert arguments["reg_tokens"] == 8 and arguments["patch_size"] == 16 and arguments["init_values"] is None
    assert config["pretrained_cfg"]["crop_pct"] == 0.875 and config["pretrained_cfg"]["interpolation"] == "bilinear"


@pytest.mark.parametrize("positions, registers, flag", [("cls", 0, False), ("patches", 0, True), ("cls", 4, True)])
def test_timm_without_layerscale(positions, registers, flag):
    changes = {"layerscale": False, "patch": 16, "positions": positions, "registers": registers}
    config = timm_config(replace(published("dinov2_vits14"), **changes), RULE)
    assert config["architecture"] == "vit_base_patch16_224"  # an entry that has none
    expected = dict(img_size=224, patch_size=16, embed_dim=384, depth=12, num_heads=6, mlp_ratio=4)
    assert config["model_args"] == {**expected, "reg_tokens": registers, "no_embed_class": flag}


def test_a_known_width_with_an_unknown_hidden_width_is_spelled_out():
    config = timm_config(replace(published("dinov2_vits14"), hidden=1024), RULE)
    assert int(384 * config["model_args"]["mlp_ratio"]) == 1024


@pytest.mark.parametrize("positions, registers, flag", [("all", 4, False), ("patches", 0, True), ("cls", 4, None)])
def test_timm_is_told_which_tokens_have_positions(positions, registers, flag):
    shape = replace(published("dinov2_vits14"), positions=positions, registers=registers)
    assert timm_config(shape, RULE)["model_args"].get("no_embed_class") == flag


@pytest.mark.parametrize("model", BACKBONES)
def test_hf_config_of_the_published_sizes(model):
    shape = published(model)
    config = hf_config(shape)
    assert config["mlp_ratio"] == 4 and config["hidden_size"] == shape.dim and config["image_size"] == 224
    assert config["use_swiglu_ffn"] == ("vitg" in model)
    assert (config["model_type"] == "dinov2_with_registers") == ("reg4" in model) == ("num_register_tokens" in config)


def test_hf_refuses_what_it_cannot_express():
    with pytest.raises(UserError, match="hidden width of 1000"):
        hf_config(replace(published("dinov2_vits14"), hidden=1000))


def test_hf_preprocessor_says_size_and_crop():
    found = hf_preprocessor(224, InputRule(256, 224, "bilinear"))
    assert found["size"] == {"shortest_edge": 256} and found["crop_size"] == {"height": 224, "width": 224}
    assert found["resample"] == 2


@pytest.mark.parametrize("model", BACKBONES)
def test_the_constructor_of_meta(model):
    text = meta_call(published(model))
    kind = "swiglufused" if "vitg" in model else "mlp"
    assert f"ffn_layer='{kind}'" in text and "mlp_ratio=4," in text and "img_size=224" in text


@pytest.mark.parametrize("dim, hidden", [(1280, 3416), (768, 2048), (32, 80)])
def test_meta_gets_a_ratio_that_gives_the_swiglu_width(dim, hidden):
    shape = replace(published("dinov2_vitg14"), dim=dim, hidden=hidden)
    ratio = float(meta_call(shape).partition("mlp_ratio=")[2].partition(",")[0])
    assert (int(int(dim * ratio) * 2 / 3) + 7) // 8 * 8 == hidden  # as its SwiGLUFFNFused computes the width


def test_meta_refuses_what_it_cannot_express():
    with pytest.raises(UserError, match="SwiGLU width of 2049"):
        meta_call(replace(published("dinov2_vitg14"), hidden=2049))
