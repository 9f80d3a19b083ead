"""What is said of everything in a file beside the tensors that are taken; and which of several sets is taken."""

import numpy as np
import pytest
from torch_writer import call, save, save_legacy
from vit_arrays import GOLDEN, state_dict

from histojax.common.errors import UserError
from histojax.weights.containers import read_tensors
from histojax.weights.read import read_tree

MODEL = "dinov2_vits14"


def numbered(seed):
    return state_dict(MODEL, depth=2, seed=seed)


def token(found):
    return found.tree["cls_token"]


@pytest.mark.parametrize("write", [save, save_legacy])
def test_what_is_left_aside_is_said(write, tmp_path):
    content = {
        "model": numbered(0),
        "model_ema": numbered(1),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": []},
        "epoch": 7,
    }
    found = read_tree(write(tmp_path / "a.pth", content))
    count = len(numbered(0))
    note = f"left aside: model_ema ({count} tensors), optimizer (1 tensors), epoch (7)"
    assert note in found.notes
    np.testing.assert_array_equal(token(found), numbered(0)["cls_token"])
    ema = read_tree(tmp_path / "a.pth", which="model_ema")
    np.testing.assert_array_equal(token(ema), numbered(1)["cls_token"])
    assert any("key 'model_ema'" in note for note in ema.notes)


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
    named = read_tensors(GOLDEN / "extractors" / file).named
    assert "argparse.Namespace" in named and not any(name.startswith(("torch", "numpy")) for name in named)


def test_two_complete_sets_are_a_question(tmp_path):
    path = save(tmp_path / "a.pth", {"model": numbered(0), "state_dict": numbered(1)})
    with pytest.raises(UserError, match=r"the keys state_dict and model hold \d+ tensors each; .*--which state_dict"):
        read_tree(path)
    np.testing.assert_array_equal(token(read_tree(path, which="model")), numbered(0)["cls_token"])
    part = {name: value for name, value in numbered(1).items() if "blocks.1" not in name}
    more = read_tree(save(tmp_path / "b.pth", {"state_dict": part, "model": numbered(0)}))
    np.testing.assert_array_equal(token(more), numbered(0)["cls_token"])
    assert any("left aside: state_dict (" in note for note in more.notes)


def test_a_key_that_is_not_there(tmp_path):
    path = save(tmp_path / "a.pth", {"model": numbered(0), "epoch": 1})
    with pytest.raises(UserError, match=r"no tensors under the key 'ema'; its keys with tensors are model \(\d+"):
        read_tree(path, which="ema")
    with pytest.raises(UserError, match=r"safetensors file has no key 'model'"):
        read_tree(GOLDEN / "extractors" / "timm_virchow2_like.safetensors", which="model")


def test_lightning_and_moco_files_are_read(tmp_path):
    """A prefix that a loss weight, a counter or the other encoder of MoCo lacks."""
    plain, ones = numbered(0), np.ones(2, np.float32)
    queue = {"module.queue": ones, "module.encoder_k.cls_token": plain["cls_token"]}
    for name, tensors in {
        "lightning": {f"model.{key}": value for key, value in plain.items()} | {"criterion.pos_weight": ones},
        "averaged": {f"module.{key}": value for key, value in plain.items()} | {"n_averaged": ones},
        "moco": {f"module.encoder_q.{key}": value for key, value in plain.items()} | queue,
    }.items():
        found = read_tree(save(tmp_path / f"{name}.ckpt", {"state_dict": tensors, "epoch": 3}))
        np.testing.assert_array_equal(token(found), plain["cls_token"])
        assert found.report.unused == [] and found.report.ignored
        assert any("tensors of other modules" in note for note in found.notes)
