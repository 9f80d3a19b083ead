"""The network is found under any prefix; of several, which one was taken is said, and any other can be asked for."""

import numpy as np
import pytest
from parity_cases.backbones import backbone_tensors
from reading import read_tree
from torch_writer import call, save, save_legacy
from vit_arrays import BACKBONES, GOLDEN, MODELS, head, state_dict

from histojax.common.errors import UserError
from histojax.weights.containers import open_tensors
from histojax.weights.search import choose_place, clean_names, find_places

MODEL = "dinov2_vits14"
ONES = np.ones(2, np.float32)


def numbered(seed):
    return state_dict(MODEL, depth=2, seed=seed)


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def token(found):
    return found.tree["cls_token"]


# names


def test_clean_names_stay_clean_without_notes():
    source = numbered(0)
    assert clean_names(source) == (source, [])


def test_wrappers_inside_names_are_removed():
    names, notes = clean_names(
        {
            "model/_orig_mod.backbone._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.norm1.weight": 1,
            "norm.weight": 2,
        }
    )
    assert set(names) == {"model/backbone.blocks.0.norm1.weight", "norm.weight"} and notes


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


# places


@pytest.mark.parametrize(
    "prefix",
    ["", "net.", "module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module.", "model.backbone.", "0.",
     "encoder_q.", "state_dict/module.net.encoder.", "a/b/c/d.e.f.", "dinov2."],
)  # fmt: skip
def test_a_network_is_found_under_any_prefix(prefix):
    assert set(backbone_tensors(prefixed(prefix, numbered(0)))) == set(numbered(0))
    (place,) = find_places(clean_names(prefixed(prefix, numbered(0)))[0])
    assert place.kind == "backbone" and place.families == ("vit",)


def test_the_places_of_a_full_training_state():
    names = {"dino_loss.center": 0}
    for side in ("student", "teacher"):
        names |= prefixed(f"model/{side}.backbone._fsdp_wrapped_module.", numbered(0))
        names |= prefixed(f"model/{side}.dino_head.", head()) | prefixed(f"model/{side}.ibot_head.", head())
    places = find_places(clean_names(names)[0])
    assert {(place.side, place.kind) for place in places} == {
        (side, kind) for side in ("student", "teacher") for kind in ("backbone", "dino_head", "ibot_head")
    }
    place, notes = choose_place(places)
    assert place.title == "model.teacher.backbone" and "took the teacher" in notes[0]
    assert "model.student.backbone (" in notes[0]
    for which in ("student", "student.backbone", "model.student.backbone", "model/student"):
        assert choose_place(places, which)[0].title == "model.student.backbone"
    with pytest.raises(UserError, match=r"no network under 'ema'; found: model\.student\.backbone \(\d+ tens"):
        choose_place(places, "ema")
    with pytest.raises(UserError, match="teacher parameters but no student"):
        choose_place([place for place in places if place.side == "teacher"], "student")


def test_heads_and_other_files():
    (place,) = find_places(prefixed("teacher_dino_head/", head()))
    assert (place.kind, place.side) == ("dino_head", "teacher") and choose_place([place]) == (None, [])
    both = prefixed("head.", head()) | prefixed("backbone.", numbered(0)) | prefixed("dino_head.", head())
    assert {place.prefix: place.kind for place in find_places(both)} == {
        "head.": "head", "backbone.": "backbone", "dino_head.": "dino_head"
    }  # fmt: skip
    assert [place.kind for place in find_places(head())] == ["dino_head"]
    assert find_places({"a.b": 1, "c": 2}) == []
    assert {place.kind for place in find_places(state_dict(BACKBONES[0], depth=1))} == {"backbone"}


# files


WRAPPED = {
    "net": lambda t: prefixed("net.", t),
    "lightning": lambda t: {"state_dict": prefixed("model.", t) | {"criterion.pos_weight": ONES}, "epoch": 3},
    "averaged": lambda t: {"state_dict": prefixed("module.", t) | {"n_averaged": ONES}},
    "unprefixed": lambda t: t | {"queue": ONES},
    "a head beside": lambda t: {
        "state_dict": prefixed("model.backbone.", t) | {"model.head.weight": ONES, "loss.w": ONES}
    },
    "moco": lambda t: {
        "state_dict": prefixed("module.encoder_q.", t)
        | prefixed("module.encoder_k.", numbered(3))
        | {"module.queue": ONES}
    },
    "unknown key": lambda t: {"network": {"weights": prefixed("trunk.", t)}, "args": {"lr": 1}},
    "ema beside": lambda t: prefixed("model.", t) | prefixed("ema_model.", numbered(3)),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("write", [save, save_legacy])
def test_wrapped_files_are_read(name, write, tmp_path):
    found = read_tree(write(tmp_path / "a.ckpt", WRAPPED[name](numbered(0))))
    np.testing.assert_array_equal(token(found), numbered(0)["cls_token"])
    assert found.report.unused == []


def test_what_is_left_aside_is_said(tmp_path):
    content = {
        "model": numbered(0),
        "model_ema": numbered(1),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": []},
        "epoch": 7,
    }
    found = read_tree(save(tmp_path / "a.pth", content))
    count = len(numbered(0))
    assert f"took model ({count} tensors); --which takes another: model_ema ({count} tensors)" in found.notes
    left = next(note for note in found.notes if note.startswith("left aside"))
    assert {f"model_ema ({count} tensors)", "optimizer (1 tensors)", "epoch (7)"} == set(left[12:].split(", "))
    np.testing.assert_array_equal(token(found), numbered(0)["cls_token"])
    ema = read_tree(tmp_path / "a.pth", which="model_ema")
    np.testing.assert_array_equal(token(ema), numbered(1)["cls_token"])


def test_long_lists_are_cut(tmp_path):
    path = save(tmp_path / "a.pth", {"model": numbered(0)} | {f"key{i:02d}": "x" * 99 for i in range(12)})
    note = next(note for note in read_tree(path).notes if note.startswith("left aside"))
    assert "key00" in note and "key08" not in note and note.endswith(" and 4 more") and len(note) < 500


def test_names_in_a_pickle_are_said_and_not_run(tmp_path):
    content = {"model": numbered(0), "hook": call("argparse", "Namespace", b"X\x02\x00\x00\x00id")}
    assert "named in the file and not run: argparse.Namespace" in read_tree(save(tmp_path / "a.pth", content)).notes
    assert not any("named" in note for note in read_tree(save(tmp_path / "b.pth", {"model": numbered(0)})).notes)


@pytest.mark.parametrize("file", ["format_zip.pth", "format_legacy.pth"])
def test_the_names_of_torchs_own_format_are_no_news(file):
    named = open_tensors(GOLDEN / "extractors" / file).named
    assert "argparse.Namespace" in named and not any(name.startswith(("torch", "numpy")) for name in named)


def test_two_complete_networks_are_a_question(tmp_path):
    path = save(tmp_path / "a.pth", {"model": numbered(0), "state_dict": numbered(1)})
    with pytest.raises(UserError, match=r"a\.pth: holds several networks, model \(\d+ .* say which .*--which model"):
        read_tree(path)
    np.testing.assert_array_equal(token(read_tree(path, which="model")), numbered(0)["cls_token"])
    part = {name: value for name, value in numbered(1).items() if "blocks.1" not in name}
    more = read_tree(save(tmp_path / "b.pth", {"state_dict": part, "model": numbered(0)}))
    np.testing.assert_array_equal(token(more), numbered(0)["cls_token"])
    assert any("left aside: state_dict (" in note for note in more.notes)


def test_a_prefix_that_is_not_there(tmp_path):
    path = save(tmp_path / "a.pth", {"model": numbered(0), "epoch": 1})
    with pytest.raises(UserError, match=r"a\.pth: no network under 'ema'; found: model \(\d+ tensors\)"):
        read_tree(path, which="ema")


def test_an_unknown_module_beside_the_network_is_an_error(tmp_path):
    for at in ("", "teacher.", "model."):
        tensors = prefixed(f"{at}backbone.", numbered(0)) | {f"{at}neck.weight": ONES}
        with pytest.raises(UserError, match=rf"1 tensors have no place in this network: {at}neck\.weight"):
            read_tree(save(tmp_path / "a.pth", tensors))


def test_what_fits_no_layout_is_shown(tmp_path):
    path = save(tmp_path / "a.pth", {"state_dict": {f"net.layer{i}.weight": ONES for i in range(3)}, "x": {"y": ONES}})
    with pytest.raises(UserError, match=r"names of its 3 tensors fit none .* the first are net\.layer0\.weight, "):
        read_tree(path)
