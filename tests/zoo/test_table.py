import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
from family_cases import listing, listings
from flax import nnx
from parity_cases.backbones import backbone_tensors

from histojax.common.errors import UserError
from histojax.models.network import (
    NETWORKS,
    POOLINGS,
    abstract,
    family,
    feature_width,
    output_shapes,
    parameter_count,
    patch_tokens,
)
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViTConfig
from histojax.weights.detect import the_layout
from histojax.weights.families import layouts_of
from histojax.zoo.table import ENCODERS, PAPER, find, find_file, spelling

RECORDS = pytest.mark.parametrize("record", ENCODERS.values(), ids=list(ENCODERS))
width, count = functools.cache(feature_width), functools.cache(parameter_count)

LISTED = {  # record: key listing of its published file, where the names differ
    "resnet50": "resnet50_torchvision",
    "resnet50_trunc": "resnet50_torchvision",
    "beit_paper": "data2vec_vision_base",
    "beit_base_pt22k": "beit_base_patch16_224_pt22k",
    "beit_base_pt22k_ft22k": "beit_base_patch16_224_pt22k_ft22k",
    "retccl": "retccl_resnet50",
    "h_optimus_1": "h_optimus_0",
    "virchow2_cls": "virchow2",
    "mstar": "uni",
    "imagebind_paper": "imagebind_huge",
    "chief_ctranspath": "ctranspath",
}
PARTS = {  # where the file holds more than the network: group of the listing's parameter counts
    "resnet50_trunc": "up_to_layer3",
    "sam_vit_b": "image_encoder",
    "sam_vit_l": "image_encoder",
    "sam_vit_h": "image_encoder",
    "imagebind_huge": "vision",
    "imagebind_paper": "vision",
    "beit_base_pt22k": "backbone",
    "beit_base_pt22k_ft22k": "backbone",
}


def with_listing():
    found = {name: LISTED.get(name, name) for name in ENCODERS}
    return {name: key for name, key in found.items() if key in listings()}


def test_every_row_of_the_issue_is_there():
    wanted = """resnet50 resnet50_trunc resnet50_v1 resnet50_trunc_v1 sam_vit_b sam_vit_l sam_vit_h beit_paper
        data2vec_vision_base data2vec_vision_base_ft1k beit_base_pt22k beit_base_pt22k_ft22k imagebind_huge
        dinov2_vits14 dinov2_vitb14 dinov2_vitl14 dinov2_vitg14 dinov2_vits14_reg dinov2_vitb14_reg dinov2_vitl14_reg
        dinov2_vitg14_reg retccl ctranspath chief_ctranspath dinov2_vits14_nct dinov2_vitg14_nct dinov2_vits14_tcga
        dinov2_vitg14_tcga uni uni2_h virchow virchow2 prov_gigapath h_optimus_0 h_optimus_1 h0_mini phikon phikon_v2
        hibou_b hibou_l kaiko_vits16 kaiko_vits8 kaiko_vitb16 kaiko_vitb8 kaiko_vitl14 lunit_vits8 lunit_vits16
        midnight_12k openmidnight mstar gpfm dinobloom_s dinobloom_b dinobloom_l dinobloom_g dinov3_vits16
        dinov3_vits16plus dinov3_vitb16 dinov3_vitl16 dinov3_vith16plus dinov3_vit7b16"""
    assert set(wanted.split()) <= set(ENCODERS)


@RECORDS
def test_the_feature_has_the_width_of_the_record(record):
    """The whole network is traced at the record's input size, but not computed."""
    assert width(record.network, record.pooling, record.preprocess.side) == record.features


@RECORDS
def test_records_are_well_formed(record):
    p = record.preprocess
    assert re.fullmatch(r"[a-z0-9_]+", record.name) and record.licence and record.pooling in POOLINGS
    assert p.filter in ("bilinear", "bicubic") and (p.crop is None or p.crop <= p.size)
    assert len(p.mean) == len(p.std) == 3 and min(p.mean) > 0
    assert p.side % getattr(record.network, "patch", 1) == 0
    assert record.mpp is None or 0.2 < record.mpp < 2.1
    assert record.weights and not record.weights[0].part.startswith("student")
    for file in record.weights:
        assert file.home.startswith("https://") and not (file.url and file.hub)
        assert file.file in file.url or file.hub or file.page
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.layout in {"", *layouts_of(family(record.network))}
    if "-ND" in record.licence:
        assert record.derivatives is False and record.commercial is False
    if "NC" in record.licence.split("-") or "non-commercial" in record.licence:
        assert record.commercial is False
    if record.licence in ("Apache-2.0", "MIT"):
        assert record.commercial is True and record.derivatives is True


@pytest.mark.parametrize("name", with_listing())
def test_parameters_as_many_as_in_the_published_file(name):
    data = listings()[with_listing()[name]]
    counts = {"": data["params"], **data["groups"]}
    wanted = counts[PARTS.get(name, "")]
    if name == "data2vec_vision_base_ft1k":
        wanted -= 769_000  # its classifier
    assert count(ENCODERS[name].network) == wanted


@pytest.mark.parametrize("name", with_listing())
def test_names_and_shapes_of_the_published_file(name):
    """Layout, names and shapes are those of the network, to the last tensor."""
    record = ENCODERS[name]
    tensors = backbone_tensors(listing(with_listing()[name]))
    layout, _ = the_layout(tensors, family=family(record.network))
    expected = abstract(record.network)[1]
    _, report = layout.read(tensors, dtype=None, expected=expected)
    report.raise_if_bad(expected)
    assert not report.unused and layout.name == record.weights[0].layout


def test_dinov2_counts():
    """Of the released models, and of the paper's finetuned ones, whose grid is 16 x 16."""
    counts = {
        "dinov2_vits14": 22_056_576,
        "dinov2_vitb14": 86_580_480,
        "dinov2_vitl14": 304_368_640,
        "dinov2_vitg14": 1_136_480_768,
        "dinov2_vitg14_reg": 1_136_486_912,
        "dinov2_vits14_nct": 22_056_576 - (37**2 - 16**2) * 384,
    }
    assert {name: count(ENCODERS[name].network) for name in counts} == counts


def test_table_3_of_the_paper():
    """Section 0 of the extractors' specification."""
    rows = {name: ENCODERS[key] for name, (_, key) in PAPER.items()}
    assert all(record.paper_row == name for name, record in rows.items()) and len(rows) == 12
    counted = {name: count(record.network) for name, record in rows.items()}
    assert [counted[name] for name in list(rows)[:6]] == [
        25_557_032,
        8_543_296,
        89_670_912,
        637_026_048,
        85_665_360,
        632_829_440,
    ]
    assert counted["RetCCL"] == 23_508_032 and counted["CTransPath"] == 27_520_038
    for name, (printed, _) in PAPER.items():
        number, unit = printed.split()
        scale = {"M": 1e6, "B": 1e9}[unit]
        assert counted[name] / scale == pytest.approx(float(number), rel=0.06), name
    assert [record.features for record in rows.values()] == [
        2048,
        1024,
        256,
        256,
        768,
        1024,
        384,
        1536,
        2048,
        768,
        384,
        1536,
    ]
    sizes = [record.preprocess.size for record in rows.values()]
    assert sizes == [224, 224, 1024, 1024, 224, 224, 252, 252, 256, 224, 224, 224]
    assert all(record.preprocess.crop is None and record.preprocess.filter == "bilinear" for record in rows.values())


def test_position_grids_are_resampled_as_the_library_of_the_model_does():
    modes = {r.name: r.network.interpolation for r in ENCODERS.values() if isinstance(r.network, ViTConfig)}
    assert modes["dinov2_vits14"] == modes["dinov2_vitg14_nct"] == modes["dinobloom_s"] == "offset"
    assert modes["dinov2_vits14_reg"] == modes["kaiko_vitl14"] == modes["uni"] == modes["openmidnight"] == "antialias"
    assert modes["phikon_v2"] == modes["midnight_12k"] == "exact"


def test_names_are_unique_in_any_spelling():
    owners: dict[str, str] = {}
    for record in ENCODERS.values():
        for name in {spelling(n) for n in (record.name, *record.aliases)}:
            assert owners.setdefault(name, record.name) == record.name, name


def test_files_are_unique():
    files = {}
    for record in ENCODERS.values():
        for file in record.weights:
            assert files.setdefault(file.cached, file) == file
    hashes = [file.sha256 for file in files.values() if file.sha256]
    assert len(hashes) == len(set(hashes)) > 15


@pytest.mark.parametrize(
    "name, record",
    [
        ("UNI", "uni"),
        ("uni_v2", "uni2_h"),
        ("hf-hub:MahmoodLab/UNI2-h", "uni2_h"),
        ("hoptimus0", "h_optimus_0"),
        ("gigapath", "prov_gigapath"),
        ("kaiko-vitb8", "kaiko_vitb8"),
        ("lunit-vits8", "lunit_vits8"),
        ("virchow2-cls", "virchow2_cls"),
        ("midnight12k", "midnight_12k"),
        ("h0-mini", "h0_mini"),
        ("openmidnight", "openmidnight"),
        ("hibou-l", "hibou_l"),
        ("vit_small_patch14_dinov2.lvd142m", "dinov2_vits14"),
        ("facebook/dinov2-with-registers-giant", "dinov2_vitg14_reg"),
        ("dinov2_vitg14_reg4", "dinov2_vitg14_reg"),
        ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "dinov3_vith16plus"),
        ("resnet50.tv_in1k", "resnet50_v1"),
        ("facebook/sam-vit-huge", "sam_vit_h"),
        ("1aurent/vit_small_patch16_224.lunit_dino", "lunit_vits16"),
        ("microsoft/beit-base-patch16-224", "beit_base_pt22k_ft22kto1k"),
        ("CHIEF", "chief_ctranspath"),
        ("DinoBloom-G", "dinobloom_g"),
    ],
)
def test_spellings(name, record):
    assert find(name).name == record


@pytest.mark.parametrize(
    "name, record",
    [
        ("microsoft/beit-base-patch16-224-pt22k-ft22k", "beit_base_pt22k_ft22k"),
        ("timm/beit_base_patch16_224.in22k_ft_in22k_in1k", "beit_base_pt22k_ft22kto1k"),
        ("timm/resnet50.tv2_in1k", "resnet50"),
        ("timm/resnet50.tv_in1k", "resnet50_v1"),
        ("timm/vit_huge_plus_patch16_dinov3.lvd1689m", "dinov3_vith16plus"),
        ("timm/samvit_base_patch16.sa1b", "sam_vit_b"),
        ("hf-hub:timm/vit_small_patch14_dinov2.lvd142m", "dinov2_vits14"),
        ("vit_small_patch16_224.lunit_dino", "lunit_vits16"),
        ("1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms", "kaiko_vitl14"),
        ("pathology/mahmood_uni2_h", "uni2_h"),
        ("sam_vit_b_01ec64", "sam_vit_b"),
        ("DinoBloom-S.pth", "dinobloom_s"),
        ("dinov2_vits_TCGA_training_29999_teacher_checkpoint.pth", "dinov2_vits14_tcga"),
    ],
)
def test_names_that_users_of_other_libraries_type(name, record):
    assert find(name).name == record


def test_a_file_that_is_not_the_encoder_is_not_found_as_one():
    with pytest.raises(UserError, match="no encoder of that name"):
        find("dinov2_vits_NCT_10k_training_1999_student_checkpoint.pth")


@pytest.mark.parametrize(
    "name, near",
    [("unii", "uni"), ("dinov2_vits_14b", "dinov2_vits14"), ("gigapth", "prov_gigapath"), ("phikn", "phikon")],
)
def test_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(UserError, match=rf"no encoder of that name; did you mean .*\b{near}\b"):
        find(name)


@pytest.mark.parametrize("name", ["", "no-such-thing-at-all"])
def test_a_name_like_no_other_says_where_all_are(name):
    with pytest.raises(UserError, match="no encoder of that name; `histojax encoders` lists all"):
        find(name)


@pytest.mark.parametrize(
    "name, file",
    [
        ("dinov2_vits14", "dinov2_vits14_pretrain.pth"),
        ("dinov2_vitg14_reg", "dinov2_vitg14_reg4_pretrain.pth"),
        ("dinov2_vits14_paper", "dinov2_vits14_pretrain.pth"),
        ("dinov2_vits14_nct", "dinov2_vits_NCT_10k_training_1999_teacher_checkpoint.pth"),
        ("dinov2_vits14_nct_teacher", "dinov2_vits_NCT_10k_training_1999_teacher_checkpoint.pth"),
        ("dinov2_vitg14_tcga_student", "dinov2_vitg_TCGA_training_59999_student_checkpoint.pth"),
        ("dinov2_vits14_tcga_teacher_dino_head", "dinov2_vits_TCGA_training_29999_teacher_dino_head_checkpoint.pth"),
        (
            "dinov2_vitg_NCT_training_9999_student_dino_head_checkpoint",
            "dinov2_vitg_NCT_training_9999_student_dino_head_checkpoint.pth",
        ),
        ("ctranspath.pth", "ctranspath.pth"),
    ],
)
def test_files_by_name(name, file):
    assert find_file(name)[1].file == file


def test_what_a_model_on_a_hub_is_called_in_the_cache():
    assert find("uni").weights[0].cached == "MahmoodLab--UNI/pytorch_model.bin"
    assert find("dinov2_vits14").weights[0].cached == "dinov2_vits14_pretrain.pth"


def test_an_unknown_file_suggests_the_nearest():
    with pytest.raises(UserError, match="neither an existing file nor published weights; did you mean dinov2_vits14"):
        find_file("dinov2_vitz14")


def test_every_family_is_in_the_table():
    assert {family(record.network) for record in ENCODERS.values()} == {name for name, _ in NETWORKS.values()}


@pytest.mark.parametrize(
    "name, shape",
    [
        ("dinov2_vits14_reg", (256, 384)),
        ("dinov2_vits14_paper", (324, 384)),
        ("ctranspath", (49, 768)),
        ("sam_vit_b", (4096, 256)),
        ("beit_paper", (196, 768)),
        ("imagebind_huge", (256, 1280)),
        ("dinov3_vits16", (196, 384)),
    ],
)
def test_patch_tokens(name, shape):
    record = find(name)
    out = jax.eval_shape(patch_tokens, output_shapes(record.network, record.preprocess.side))
    assert out.shape == (1, *shape)


def test_counting_leaves_out_statistics():
    config = ResNetConfig(blocks=(1,), planes=(4,), stem=4)
    shapes = abstract(config)[1]
    everything = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    statistics = 2 * (4 + 4 + 4 + 16 + 16)  # mean and variance of five norms
    assert parameter_count(config) == everything - statistics


def test_the_hash_is_of_preprocessing_and_pooling():
    record = find("uni")
    others = [
        dataclasses.replace(record, pooling="cls+mean"),
        dataclasses.replace(record, preprocess=dataclasses.replace(record.preprocess, filter="bicubic")),
        dataclasses.replace(record, preprocess=dataclasses.replace(record.preprocess, crop=None)),
    ]
    assert len({r.preprocess_hash for r in (record, *others)}) == 4
    assert record.preprocess_hash == find("mstar").preprocess_hash  # another network, the same input and feature
    assert dataclasses.replace(record, notes="x").preprocess_hash == record.preprocess_hash


def test_poolings_by_hand():
    tokens = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    out = {"cls": tokens[:, 0], "patches": tokens[:, 1:]}
    np.testing.assert_array_equal(POOLINGS["cls"][1](out), tokens[:, 0])
    np.testing.assert_array_equal(POOLINGS["mean"][1](out), tokens[:, 1:].mean(1))
    both = POOLINGS["cls+mean"][1](out)
    np.testing.assert_array_equal(both, np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], -1))


def test_networks_are_not_allocated(monkeypatch):
    """7 billion parameters are counted without memory."""
    monkeypatch.setattr(nnx, "merge", lambda *_: pytest.fail("built"))
    assert parameter_count(find("dinov3_vit7b16").network) > 6.7e9
