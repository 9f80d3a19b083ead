"""Every kind of file to its network's tree: recognition, strictness, memory, and what bad files are told."""

import json
import pickle
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from family_cases import listings
from parity_cases.backbones import backbone_tensors
from reading import read_tree
from safetensors.numpy import load_file, save_file
from torch_writer import Raw, call, save, save_legacy
from vit_arrays import GOLDEN, assert_same, head, state_dict

from histojax.common.errors import UserError
from histojax.weights.backbone import Backbone, open_backbone
from histojax.weights.families import FAMILIES, LAYOUTS
from histojax.weights.layouts.dinov2 import META
from histojax.weights.layouts.hf_vit import HF_VIT
from histojax.weights.layouts.timm_vit import TIMM
from histojax.weights.trees import flatten
from histojax.weights.vit_tree import positions_of

FILES = GOLDEN / "extractors"
MODEL = "dinov2_vits14"
PUBLISHED = {  # listing: family, layout, its parameters that the network has (None: all)
    "beit_base_patch16_224_pt22k": ("beit", "unilm", "backbone"),
    "beit_base_patch16_224_pt22k_ft22k": ("beit", "unilm", "backbone"),
    "beit_base_timm": ("beit", "unilm", None),
    "ctranspath": ("swin", "ctranspath", None),
    "data2vec_vision_base": ("beit", "hf", None),
    "data2vec_vision_base_ft1k": ("beit", "hf", 86_530_984 - 769_000),  # without the classifier
    "dinov3_vitl16": ("dinov3", "hf", None),
    "gpfm": ("vit", "timm", None),
    "h0_mini": ("vit", "timm", None),
    "h_optimus_0": ("vit", "timm", None),
    "hibou_b": ("vit", "hf", None),
    "hibou_l": ("vit", "hf", None),
    "imagebind_huge": ("imagebind", "meta", "vision"),
    "kaiko_vitb16": ("vit", "timm", None),
    "kaiko_vitb8": ("vit", "timm", None),
    "kaiko_vitl14": ("vit", "timm", None),
    "kaiko_vits16": ("vit", "timm", None),
    "kaiko_vits8": ("vit", "timm", None),
    "lunit_vits16": ("vit", "timm", None),
    "lunit_vits8": ("vit", "timm", None),
    "midnight_12k": ("vit", "hf", None),
    "phikon": ("vit", "hf-vit", None),
    "phikon_v2": ("vit", "hf", None),
    "prov_gigapath": ("vit", "timm", None),
    "resnet50_torchvision": ("resnet", "torchvision", None),
    "retccl_resnet50": ("resnet", "torchvision", None),
    "sam_vit_b": ("sam", "meta", "image_encoder"),
    "sam_vit_b_hf": ("sam", "hf", 89_670_912),
    "sam_vit_h": ("sam", "meta", "image_encoder"),
    "sam_vit_l": ("sam", "meta", "image_encoder"),
    "samvit_base_timm": ("sam", "timm", None),
    "swin_tiny_timm": ("swin", "timm", None),
    "uni": ("vit", "timm", None),
    "uni2_h": ("vit", "timm", None),
    "virchow": ("vit", "timm", None),
    "virchow2": ("vit", "timm", None),
}


class Shape:
    """A tensor of a listing."""

    def __init__(self, shape):
        self.shape = tuple(shape)


def test_every_listing_is_here():
    assert set(PUBLISHED) == set(listings())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_listing_is_recognised_and_used_up(name):
    family, layout, part = PUBLISHED[name]
    row = listings()[name]
    tensors = backbone_tensors({key: Shape(shape) for key, (shape, _) in row["keys"].items()})
    found = [one for one in LAYOUTS if one.recognise(set(tensors))]
    assert [(one.family, one.name) for one in found] == [(family, layout)]
    _, report = Backbone(FILES, "", found[0], tensors).shapes()
    assert not report.missing and not report.problems and not report.unused
    wanted = row["params"] if part is None else part if isinstance(part, int) else row["groups"][part]
    counted = [name for name in report.matched if not name.endswith(("running_mean", "running_var"))]
    assert sum(int(np.prod(tensors[name].shape)) for name in counted) == wanted


@pytest.mark.parametrize(
    "file, family, layout",
    [
        ("beit_perlayer_relpos.pth", "beit", "unilm"),
        ("beit_shared_relpos.pth", "beit", "unilm"),
        ("data2vec_vision.safetensors", "beit", "hf"),
        ("ctranspath_3stage.pth", "swin", "ctranspath"),
        ("hf_dinov2reg_hibou_like.safetensors", "vit", "hf"),
        ("hf_dinov3_vit.safetensors", "dinov3", "hf"),
        ("hf_dinov3_vit_gated.safetensors", "dinov3", "hf-gated"),
        ("imagebind.pth", "imagebind", "meta"),
        ("resnet_imagenet.safetensors", "resnet", "torchvision"),
        ("sam_relpos_interp.pth", "sam", "meta"),
        ("timm_hoptimus_like.safetensors", "vit", "timm"),
        ("timm_lunit_like_bf16.safetensors", "vit", "timm"),
        ("timm_lunit_like_dino_checkpoint.pth", "vit", "timm"),
        ("timm_uni_like_pytorch_model.bin", "vit", "timm"),
        ("timm_virchow2_like.safetensors", "vit", "timm"),
    ],
)
def test_files_of_the_reference_implementations(file, family, layout):
    found = read_tree(FILES / file)
    assert found[:2] == (family, layout) and not found.report.unused and not found.report.missing
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in flatten(found.tree).values())
    assert any(note.startswith(f"layout {layout} of {FAMILIES[family].title}: ") for note in found.notes)
    if family != "vit":
        with pytest.raises(UserError, match=rf"another .*, {layout} of {FAMILIES[family].title}.*; expected ViT"):
            read_tree(FILES / file, family="vit")


# positions


def test_positions_stay_as_the_file_has_them():
    rows = {"timm_virchow2_like": "all", "timm_hoptimus_like": "patches", "timm_lunit_like_bf16": "cls"}
    for file, kind in rows.items():
        assert positions_of(read_tree(FILES / f"{file}.safetensors").tree) == kind


@pytest.mark.parametrize("kind, rows", [("cls", 17), ("patches", 16)])
def test_positions_take_the_form_that_is_expected(kind, rows):
    stored = read_tree(FILES / "timm_virchow2_like.safetensors").tree
    expected = {**stored, "pos_embed": (1, rows, 32)}
    tree, notes = (found := read_tree(FILES / "timm_virchow2_like.safetensors", expected=expected)).tree, found.notes
    assert positions_of(tree) == kind and any("had rows for all" in note for note in notes)

    def embedded(tree):
        front = np.concatenate([tree["cls_token"], tree["register_tokens"]], axis=1)
        extra = tree["pos_embed"][:, : tree["pos_embed"].shape[1] - 16]
        front[:, : extra.shape[1]] += extra
        return np.concatenate([front, tree["pos_embed"][:, -16:]], axis=1)

    np.testing.assert_allclose(embedded(tree), embedded(stored), atol=1e-6)


def test_another_grid_is_refused(tmp_path):
    save_file(state_dict(MODEL, grid=3), tmp_path / "a.safetensors")
    expected = META.read(state_dict(MODEL, grid=4))[0]
    with pytest.raises(UserError, match=r"pos_embed has shape \(1, 10, 16\) .* expects \(1, 17, 16\)"):
        read_tree(tmp_path / "a.safetensors", expected=expected)


def test_the_mask_token_is_there_if_it_is_wanted(tmp_path):
    tree = META.read(state_dict(MODEL))[0]
    plain = {name: leaf for name, leaf in tree.items() if name != "mask_token"}
    save_file(state_dict(MODEL), tmp_path / "with.safetensors")
    save_file(TIMM.write(tree), tmp_path / "without.safetensors")
    for file, expected in (("with", tree), ("with", plain), ("without", tree), ("without", plain)):
        found = read_tree(tmp_path / f"{file}.safetensors", expected=expected)
        assert set(found.tree) == set(expected)
        assert ("mask_token" in found.report.ignored) == (file == "with" and expected is plain)
        assert any("zeros" in note for note in found.notes) == (file == "without" and expected is tree)


# wrappers and containers


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def chunked(tensors):
    return {name.replace("blocks.", "blocks.0.", 1): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"teacher": prefixed("backbone.", chunked(t)) | prefixed("dino_head.", head())},
        lambda t: {"state_dict": prefixed("model.", t), "pytorch-lightning_version": "2.1", "hyper_parameters": {}},
        lambda t: {"state_dict": prefixed("module.backbone.", t) | prefixed("module.head.", head()), "epoch": 1},
        lambda t: {"model": prefixed("teacher.backbone.", t) | prefixed("teacher.ibot_head.", head())},
        lambda t: prefixed("_orig_mod.", t),
    ],
    ids=["dinov2 teacher, chunked", "lightning", "with a head", "training state", "compiled"],
)
def test_wrappers(wrap, tmp_path):
    found = read_tree(save(tmp_path / "a.ckpt", wrap(state_dict(MODEL))))
    assert_same(flatten(found.tree), flatten(META.read(state_dict(MODEL))[0]))
    assert found.report.unused == []


def test_teacher_and_student_of_one_file():
    trees = [read_tree(FILES / "timm_lunit_like_dino_checkpoint.pth", which=w).tree for w in ("teacher", "student")]
    assert not np.array_equal(trees[0]["cls_token"], trees[1]["cls_token"])
    with pytest.raises(UserError, match=r"under 'ema'; found: student\.module\.backbone \(30 tensors\), teacher"):
        read_tree(FILES / "timm_lunit_like_dino_checkpoint.pth", which="ema")


def test_a_task_model_of_hugging_face(tmp_path):
    tree = META.read(state_dict(MODEL))[0]
    tensors = prefixed(
        "vit.", HF_VIT.write({**tree, "blocks": {k: v for k, v in tree["blocks"].items() if k[:2] != "ls"}})
    )
    tensors |= {"classifier.weight": np.zeros((3, 16), np.float32), "classifier.bias": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = read_tree(tmp_path)
    assert found.layout == "hf-vit" and set(found.report.ignored) == {"classifier.weight", "classifier.bias"}
    assert_same(found.tree["blocks"]["attn"]["qkv"], tree["blocks"]["attn"]["qkv"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_and_shards(dtype, tmp_path):
    tensors = {name: value.astype(dtype) for name, value in state_dict(MODEL).items()}
    parts = [dict(list(tensors.items())[i::2]) for i in range(2)]
    for i, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{i}.safetensors")
    where = {name: f"model-{i}.safetensors" for i, part in enumerate(parts) for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = read_tree(tmp_path)
    assert found.notes[0] == "sharded safetensors" and set(found.report.dtypes) == {np.dtype(dtype).name}
    kernel = found.tree["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[3].T, tensors["blocks.3.mlp.fc1.weight"].astype(np.float32))


# DINOv3 in the names of its other homes, from the golden file in Hugging Face's


def dinov3(file, renames, qkv):
    """The tensors under other names; `qkv(query, value)` gives what is made of the two biases."""
    source, out = load_file(FILES / file), {}
    for name, value in source.items():
        for old, new in renames:
            name = name.replace(old, new)
        out[name] = value
    for layer in range(sum(name.endswith("o_proj.weight") for name in source)):
        part = {letter: f"blocks.{layer}.attn.{letter}_proj" for letter in "qkv"}
        weights = [out.pop(f"{part[letter]}.weight") for letter in "qkv"]
        out[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate(weights)
        query, value = (out.pop(f"{part[letter]}.bias") for letter in "qv")
        out |= {f"blocks.{layer}.attn.{name}": value for name, value in qkv(query, value).items()}
    return out


COMMON = (
    ("embeddings.patch_embeddings", "patch_embed.proj"), ("embeddings.", ""), ("layer.", "blocks."),
    ("attention.o_proj", "attn.proj"), ("attention.", "attn."),
)  # fmt: skip
TO_META = (
    *COMMON, ("register_tokens", "storage_tokens"), ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
)  # fmt: skip
TO_TIMM = (
    *COMMON, ("register_tokens", "reg_token"), ("layer_scale1.lambda1", "gamma_1"), ("layer_scale2.lambda1", "gamma_2")
)  # fmt: skip
PLAIN = (("mlp.up_proj", "mlp.fc1"), ("mlp.down_proj", "mlp.fc2"))


@pytest.mark.parametrize(
    "file, feed",
    [
        ("hf_dinov3_vit", PLAIN),
        ("hf_dinov3_vit_gated", (("mlp.gate_proj", "mlp.w1"), ("mlp.up_proj", "mlp.w2"), ("mlp.down_proj", "mlp.w3"))),
    ],
)
def test_dinov3_in_the_names_of_meta(file, feed, tmp_path):
    def qkv(query, value):
        nan, one = np.full_like(query, np.nan), np.ones_like(query)
        return {"qkv.bias": np.concatenate([query, nan, value]), "qkv.bias_mask": np.concatenate([one, 0 * one, one])}

    tensors = dinov3(f"{file}.safetensors", (*TO_META, *feed), qkv)
    tensors["mask_token"] = tensors["mask_token"][0]
    tensors["rope_embed.periods"] = np.ones(2, np.float32)
    found = read_tree(save(tmp_path / "a.pth", tensors))
    assert found.family == "dinov3" and found.layout.startswith("meta")
    assert found.report.ignored == ["rope_embed.periods"]
    assert_same(flatten(found.tree), flatten(read_tree(FILES / f"{file}.safetensors").tree))


@pytest.mark.parametrize(
    "file, feed",
    [
        ("hf_dinov3_vit", PLAIN),
        (
            "hf_dinov3_vit_gated",
            (("mlp.gate_proj", "mlp.fc1_g"), ("mlp.up_proj", "mlp.fc1_x"), ("mlp.down_proj", "mlp.fc2")),
        ),
    ],
)
def test_dinov3_in_the_names_of_timm(file, feed, tmp_path):
    tensors = dinov3(f"{file}.safetensors", (*TO_TIMM, *feed), lambda q, v: {"q_bias": q, "v_bias": v})
    del tensors["mask_token"]
    found = read_tree(save(tmp_path / "a.pth", tensors))
    expected = flatten(read_tree(FILES / f"{file}.safetensors").tree)
    del expected["mask_token"]
    assert found.family == "dinov3" and found.layout.startswith("timm")
    assert_same(flatten(found.tree), expected)
    for layer in range(2):  # timm's variants without biases
        del tensors[f"blocks.{layer}.attn.q_bias"], tensors[f"blocks.{layer}.attn.v_bias"]
    unbiased = read_tree(save(tmp_path / "b.pth", tensors)).tree
    assert not unbiased["blocks"]["attn"]["qkv"].pop("bias").any()


# memory


@pytest.mark.parametrize("write", [save, save_legacy])
def test_other_modalities_of_a_big_file_are_not_read(write, tmp_path):
    source = {
        name: np.asarray(tensor.numpy()) for name, tensor in open_backbone(FILES / "imagebind.pth").tensors.items()
    }
    big = {f"modality_trunks.audio.blocks.{i}.mlp.fc1.weight": np.zeros((1024, 1024), np.float32) for i in range(12)}
    path = write(tmp_path / "huge.pth", source | big)
    vision = sum(leaf.nbytes for leaf in flatten(read_tree(FILES / "imagebind.pth").tree).values())
    tracemalloc.start()
    try:
        tree = read_tree(path).tree
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(leaf.nbytes for leaf in flatten(tree).values()) == vision
    assert path.stat().st_size > 48 << 20 and peak < 2 * vision + (4 << 20)  # names and the pickle are small


def test_a_wrong_file_is_refused_before_its_tensors_are_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pth", state_dict(MODEL))
    monkeypatch.setattr("histojax.weights.tensors.LazyTensor.numpy", lambda self: pytest.fail("a tensor was read"))
    with pytest.raises(UserError, match="the model expects"):
        read_tree(path, expected=META.read(state_dict(MODEL, grid=4))[0])


# bad files, one line each


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("lost", ["blocks.1.attn.proj.bias", "norm.weight", "pos_embed"])
def test_a_missing_tensor(lost, tmp_path):
    tensors = {name: value for name, value in state_dict(MODEL).items() if name != lost}
    with pytest.raises(UserError, match=rf"a\.pth: .*{lost}") as error:
        read_tree(save(tmp_path / "a.pth", tensors))
    assert one_line(error)


def test_an_extra_tensor_is_an_error_unless_it_is_let_go(tmp_path):
    path = save(tmp_path / "a.pth", state_dict(MODEL) | {"blocks.0.attn.q_norm.weight": np.ones(16, np.float32)})
    with pytest.raises(
        UserError, match=r"a\.pth: read as meta of ViT: 1 tensors .*: blocks\.0\.attn\.q_norm.*--ignore"
    ):
        read_tree(path)
    found = read_tree(path, ignore=["*.q_norm.*"])
    assert found.report.ignored == ["blocks.0.attn.q_norm.weight"] and found.report.unused == []


def test_an_extra_module_beside_the_backbone_is_an_error(tmp_path):
    tensors = prefixed("backbone.", state_dict(MODEL)) | {"neck.weight": np.ones(16, np.float32)}
    with pytest.raises(UserError, match=r"1 tensors have no place in this network: neck\.weight"):
        read_tree(save(tmp_path / "a.pth", tensors))


def test_the_same_family_in_another_size(tmp_path):
    expected = META.read(state_dict("dinov2_vits14_reg4"))[0]
    with pytest.raises(UserError, match=r"the model needs register_tokens .* which the file does not have"):
        read_tree(save(tmp_path / "a.pth", state_dict(MODEL)), expected=expected)


def test_unknown_names_layouts_and_families(tmp_path):
    path = save(tmp_path / "a.pth", {"encoder.w": np.ones((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"fit none of the layouts meta of ViT, .*; the first are encoder\.w"):
        read_tree(path)
    with pytest.raises(UserError, match="unknown layout 'onnx'; known are meta, timm, hf, hf-vit"):
        read_tree(path, layout="onnx")
    with pytest.raises(UserError, match="unknown family 'gan'; known are vit, resnet"):
        read_tree(path, family="gan")


def test_a_layout_named_by_its_library_alone_is_found_by_the_names():
    assert read_tree(FILES / "data2vec_vision.safetensors", layout="hf")[:2] == ("beit", "hf")
    assert read_tree(FILES / "hf_dinov3_vit_gated.safetensors", layout="hf")[:2] == ("dinov3", "hf-gated")
    with pytest.raises(UserError, match="fit none of the layouts timm of ViT"):
        read_tree(FILES / "data2vec_vision.safetensors", layout="timm")


def bomb():
    """A pickle of 1 kB that doubles a tuple 60 times when it is built."""
    return Raw(b"(" + b"".join(pickle.dumps(1)[2:-1] for _ in range(2)) + b"t" + b"q\x00h\x00\x86" * 60)


def test_broken_files(tmp_path):
    whole = save(tmp_path / "whole.pth", state_dict(MODEL)).read_bytes()
    legacy = save_legacy(tmp_path / "legacy.pth", state_dict(MODEL)).read_bytes()
    nested = Raw(b"]" * 200_000 + b"a" * 199_999)
    files = {
        "cut.pth": (whole[: len(whole) // 2], "download it again"),
        "page.pth": (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        "magic.pth": (legacy.replace(b"\x6c\xfc\x9c\x46", b"\x6c\xfc\x9c\x47", 1), "not a PyTorch file"),
        "legacy_cut.pth": (legacy[: len(legacy) - 1000], "truncated"),
        "bomb.pth": (save(tmp_path / "b.pth", bomb()).read_bytes(), "no tensors"),
        "deep.pth": (save(tmp_path / "d.pth", nested).read_bytes(), "no tensors"),
        "evil.pth": (save(tmp_path / "e.pth", call("os", "system", b"X\x02\x00\x00\x00id")).read_bytes(), "os.system"),
        "empty.pth": (b"", "empty"),
    }
    for name, (content, message) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            read_tree(path)
        assert one_line(error) and name in str(error.value), name
