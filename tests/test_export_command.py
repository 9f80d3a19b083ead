"""`histojax export` through its entry point: runs, files and encoders; the position grid; licences."""

import json
from pathlib import Path

import numpy as np
import pytest
from finished_run import make_run
from reading import read_tree
from safetensors.numpy import load_file

from histojax.__main__ import main as histojax
from histojax.models.vit import ViTConfig
from histojax.weights.pos_embed import resample_grid
from histojax.zoo import table
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile

GOLDEN = Path(__file__).parent / "golden" / "extractors"
HIBOU = GOLDEN / "hf_dinov2reg_hibou_like.safetensors"


def run(capsys, *words):
    code = histojax(["export", *map(str, words)])
    return code, *capsys.readouterr()


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


@pytest.fixture
def record(monkeypatch, tmp_path_factory):
    """A record whose published file is a tiny golden file, under a name of its own."""
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    config = ViTConfig(32, 2, 4, 14, image=56, registers=4, ffn="swiglu", hidden=88, interpolation="antialias")
    made = EncoderRecord(
        "tiny_hibou", config, (WeightFile("x.safetensors", HIBOU.as_uri()),), Preprocess(96, 84, "bicubic"), "cls", 32,
        0.5, "CC-BY-NC-ND-4.0", commercial=False, derivatives=False,
    )  # fmt: skip
    monkeypatch.setitem(table._RECORDS, table.spelling(made.name), made)
    monkeypatch.setitem(table._FILES, table.spelling(made.name), (made, made.weights[0]))
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, backbone) of a run that looks as if it had saved a checkpoint and ended."""
    folder, state = make_run(tmp_path_factory.mktemp("runs") / "mine", layouts=["meta"])
    return folder, state.parameters("teacher")["backbone"]


def test_help_and_missing_flags(capsys):
    assert run(capsys, "--help")[0] == 0
    for words, message in (
        ((HIBOU, "--out", "x"), "--to is missing"),
        ((HIBOU, "--to", "timm"), "--out is missing"),
        ((HIBOU, "--to", "timm", "--out", "x", "--step", "3"), "--step is for a training run"),
        (("uni3", "--to", "timm", "--out", "x"), "neither an existing file nor published weights; did you mean"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "part, step", [("", ()), ("", ("--step", "0")), ("checkpoints/0", ())], ids=["export", "step", "checkpoint"]
)
def test_a_run_is_exported_with_its_history(part, step, capsys, tmp_path, finished):
    folder, backbone = finished
    code, _, error = run(capsys, folder / part, "--to", "hf", "--out", tmp_path / "out", *step)
    assert code == 0 and "warning: DERIVATIVES FORBIDDEN by the licence of uni" in error
    tensors, card = load_file(tmp_path / "out" / "model.safetensors"), card_of(tmp_path / "out")
    np.testing.assert_array_equal(tensors["embeddings.position_embeddings"], backbone["pos_embed"])
    assert card["licences"][0]["what"] == "uni" and card["derivatives"] is False
    assert card["steps"] == (0 if part or step else 9) and card["architecture"]["heads"] == 2


def test_a_run_without_the_step_or_with_other_flags(capsys, tmp_path, finished):
    code, _, error = run(
        capsys, finished[0] / "checkpoints" / "0", "--step", 0, "--to", "timm", "--out", tmp_path / "o"
    )
    assert code == 2 and "is a checkpoint: leave --step out" in error
    for words, message in (
        (("--step", "7"), "no checkpoint of step 7; there are 0"),
        (("--encoder", "uni"), "--encoder is for files"),
        (("--commercial",), "the licence of uni forbids commercial use"),
    ):
        code, _, error = run(capsys, finished[0], "--to", "timm", "--out", tmp_path / "out", *words)
        assert code == 2 and message in error and not list(tmp_path.iterdir())


def test_an_encoder_is_exported_at_its_own_size(capsys, tmp_path, record):
    code, out, error = run(capsys, "tiny-hibou", "--to", "meta", "--out", tmp_path / "out")
    assert code == 0 and "DERIVATIVES FORBIDDEN by the licence of tiny_hibou" in error
    assert "resampled from 4 x 4 to 6 x 6 by 'antialias'" in out
    tree, stored = read_tree(tmp_path / "out").tree, read_tree(HIBOU).tree
    np.testing.assert_array_equal(tree["pos_embed"], resample_grid(stored["pos_embed"], 6, "antialias"))
    card = card_of(tmp_path / "out")
    assert card["architecture"]["image"] == 84 and card["preprocessing"]["size"] == 96
    assert "6 x 6, for 84 px input (resampled from 4 x 4" in card["positions"]
    assert "6 x 6" in (tmp_path / "out" / "README.md").read_text()
    assert card["commercial_use"] is False and card["encoder"] == "tiny_hibou"


def test_another_size_and_method(capsys, tmp_path, record):
    code, _, _ = run(
        capsys, "tiny_hibou", "--to", "timm", "--image", 42, "--positions", "exact", "--out", tmp_path / "out"
    )
    stored, made = read_tree(HIBOU).tree["pos_embed"], load_file(tmp_path / "out" / "model.safetensors")["pos_embed"]
    assert code == 0
    np.testing.assert_array_equal(made, resample_grid(stored, 3, "exact")[:, 1:])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 42, 42] and config["pretrained_cfg"]["crop_pct"] == 0.875
    code, _, error = run(capsys, "tiny_hibou", "--to", "timm", "--image", 43, "--out", tmp_path / "no")
    assert code == 2 and "--image 43 is not a multiple of the patch, 14" in error
    code, _, error = run(capsys, "tiny_hibou", "--to", "timm", "--positions", "best", "--image", 42, "--out", "no")
    assert code == 2 and "unknown position mode 'best'" in error


def test_a_local_file_keeps_its_grid_and_says_that_its_licence_is_unknown(capsys, tmp_path):
    words = (HIBOU, "--to", "timm", "--heads", 4, "--out", tmp_path / "out")
    code, _, error = run(capsys, *words)
    assert (
        code == 0 and "terms not known" in error and "as stored in the source" in card_of(tmp_path / "out")["positions"]
    )
    code, _, error = run(capsys, *words, "--commercial")
    assert code == 2 and "is not known to allow commercial use" in error
    assert run(capsys, *words, "--commercial", "--licence", "Apache-2.0")[0] == 0
    assert card_of(tmp_path / "out")["commercial_use"] is True


@pytest.mark.parametrize(
    "file, target, message",
    [
        ("ctranspath_3stage.pth", "hf", "Swin transformer can be written as ctranspath, timm, histojax"),
        ("resnet_imagenet.safetensors", "meta", "ResNet can be written as timm"),
        ("hf_dinov3_vit.safetensors", "timm", "DINOv3 can be written as hf"),
    ],
)
def test_what_a_library_has_no_network_for_is_refused(file, target, message, capsys, tmp_path):
    code, _, error = run(capsys, GOLDEN / file, "--to", target, "--out", tmp_path / "out")
    assert code == 2 and message in error and not list(tmp_path.iterdir())


def test_other_families(capsys, tmp_path):
    words = (GOLDEN / "hf_dinov3_vit_gated.safetensors", "--to", "hf", "--out", tmp_path / "v3")
    code, _, error = run(capsys, *words)
    assert code == 2 and "how many attention heads" in error and not list(tmp_path.iterdir())
    assert run(capsys, *words, "--heads", 4)[0] == 0
    config = json.loads((tmp_path / "v3" / "config.json").read_text())
    assert config["use_gated_mlp"] and config["model_type"] == "dinov3_vit"
    assert run(capsys, GOLDEN / "sam_windowed.pth", "--to", "timm", "--out", tmp_path / "sam")[0] == 0
    code, _, error = run(capsys, GOLDEN / "sam_windowed.pth", "--to", "timm", "--image", 64, "--out", tmp_path / "no")
    assert code == 2 and "for ViTs" in error
