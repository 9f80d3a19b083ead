"""`histojax convert` through its entry point: report, card, refusals, and nothing left behind."""

import json

import jax
import numpy as np
import pytest
from finished_run import make_run
from reading import read_tree
from safetensors.numpy import load_file, save_file

from histojax.__main__ import main as histojax
from histojax.models.vit import ViTConfig
from histojax.weights.backbone import open_backbone
from histojax.weights.trees import flatten
from histojax.zoo import table
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile

GOLDEN = __import__("pathlib").Path(__file__).parent / "golden" / "extractors"
VIRCHOW, LUNIT = GOLDEN / "timm_virchow2_like.safetensors", GOLDEN / "timm_lunit_like_dino_checkpoint.pth"


def run(capsys, *words):
    code = histojax(["convert", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.fixture
def tiny_record(monkeypatch):
    """A record for the tiny golden file, under a name of its own."""
    config = ViTConfig(32, 2, 4, 14, image=56, registers=4, ffn="swiglu", hidden=85, positions="all", mask_token=False)
    rule = Preprocess(64, 56, "bicubic")
    record = EncoderRecord(
        "tiny_virchow", config, (WeightFile("x.safetensors", sha256="0" * 64),), rule, "cls+mean", 64, 0.5,
        "CC-BY-NC-ND-4.0", commercial=False, derivatives=False,
    )  # fmt: skip
    monkeypatch.setitem(table._RECORDS, table.spelling(record.name), record)
    return record


def test_help_and_missing_flags(capsys):
    assert run(capsys, "--help")[0] == 0
    for words, message in (
        ((VIRCHOW,), "--out DIR is missing"),
        ((VIRCHOW, "--out", "x", "--leyout", "timm"), "did you mean --layout?"),
        ((), "usage: histojax convert FILE"),
        ((VIRCHOW, "--out", "x", "--heads", "many"), "argument --heads: invalid int value: 'many'"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and message in error
        assert not words or error.count("\n") == 1


def test_the_report_and_the_card(capsys, tmp_path):
    code, out, _ = run(capsys, LUNIT, "--out", tmp_path / "out", "--heads", 4, "--licence", "mine, all rights reserved")
    assert code == 0
    for line in ("layout timm of ViT: ", "took the teacher", "matched    30 tensors, 30 float32", "unused     0",
                 "missing    0", "left aside: 1 tensors of other modules", "mine, all rights reserved"):  # fmt: skip
        assert line in out, (line, out)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["source"]["file"] == LUNIT.name and len(card["source"]["sha256"]) == 64
    assert card["layout"] == "histojax" and card["family"] == "vit" and card["report"]["matched"] == 30
    assert card["licences"][0]["licence"] == "mine, all rights reserved" and card["commercial_use"] is None
    source, found = read_tree(LUNIT), read_tree(tmp_path / "out")
    for path, leaf in flatten(source.tree).items():
        np.testing.assert_array_equal(flatten(found.tree)[path], leaf)


def test_an_encoder_brings_its_licence_input_and_feature(capsys, tmp_path, tiny_record):
    code, out, _ = run(capsys, VIRCHOW, "--encoder", "tiny-virchow", "--out", tmp_path / "out")
    assert code == 0 and "not the published file of tiny_virchow" in out
    assert "CC-BY-NC-ND-4.0 (commercial use: NO, derivatives: NO)" in out
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["encoder"] == "tiny_virchow" and card["features"] == 64 and "side by side" in card["feature"]
    assert card["preprocessing"]["size"] == 64 and card["preprocessing"]["crop"] == 56
    assert "DERIVATIVES FORBIDDEN" in (tmp_path / "out" / "README.md").read_text()
    # the chain survives a second conversion that does not know the encoder
    code, out, _ = run(capsys, tmp_path / "out", "--out", tmp_path / "again", "--to", "timm")
    assert code == 0 and "tiny_virchow: CC-BY-NC-ND-4.0" in out
    written = load_file(tmp_path / "again" / "model.safetensors")
    for name, value in load_file(VIRCHOW).items():
        np.testing.assert_array_equal(written[name], value)


def test_check_writes_nothing(capsys, tmp_path):
    code, out, _ = run(capsys, VIRCHOW, "--check", "--out", tmp_path / "out")
    assert code == 0 and "matched" in out and not list(tmp_path.iterdir())


def test_bad_input_is_one_line_and_leaves_nothing(capsys, tmp_path, tiny_record):
    page, extra, cut = (tmp_path / name for name in ("page.pth", "extra.safetensors", "cut.pth"))
    page.write_bytes(b"<!doctype html><html>")
    save_file(load_file(VIRCHOW) | {"norm_pre.weight": np.ones(32, np.float32)}, extra)
    cut.write_bytes(LUNIT.read_bytes()[:9000])
    for words, message in (
        ((tmp_path / "none.pth",), "no such file"),
        ((page,), "web page"),
        ((cut,), "truncated"),
        ((extra,), "norm_pre.weight"),
        ((VIRCHOW, "--layout", "onnx"), "unknown layout 'onnx'"),
        ((VIRCHOW, "--to", "onnx"), "unknown layout 'onnx': ViT can be written as"),
        ((VIRCHOW, "--encoder", "uni9"), "did you mean uni"),
        ((VIRCHOW, "--encoder", "resnet50"), "another architecture, timm of ViT"),
        ((GOLDEN / "timm_hoptimus_like.safetensors", "--encoder", "tiny_virchow"), "the model expects"),
        ((LUNIT, "--which", "ema"), "no network under 'ema'"),
        ((GOLDEN / "imagebind.pth", "--to", "timm"), "ImageBind can be written as histojax"),
    ):
        code, _, error = run(capsys, *words, "--out", tmp_path / "out")
        assert code == 2 and message in error and error.count("\n") == 1, (words, error)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pth", "extra.safetensors", "page.pth"]
    assert run(capsys, extra, "--ignore", "norm_pre.*", "--heads", 4, "--out", tmp_path / "out")[0] == 0


def test_a_full_disk_leaves_nothing(capsys, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histojax.weights.write.write_safetensors", full)
    code, _, error = run(capsys, VIRCHOW, "--heads", 4, "--out", tmp_path / "out")
    assert code == 2 and "No space left" in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["", "export", "checkpoints/0"])
def test_a_run_its_export_or_a_checkpoint_is_converted_like_a_file(part, capsys, tmp_path):
    run_folder, _ = make_run(tmp_path / "run", layouts=("meta",))
    code, report, _ = run(capsys, run_folder / part, "--out", tmp_path / "out")
    assert code == 0 and "CC-BY-NC-ND-4.0" in report
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["what"] == "teacher of DINOv2 training by histojax"
    read = open_backbone(tmp_path / "out" / "model.safetensors").read()[0]
    kept = open_backbone(run_folder / "export" / "teacher_checkpoint.safetensors", which="teacher").read()[0]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(kept), strict=True))
    code, _, error = run(capsys, run_folder / part, "--out", tmp_path / "other", "--encoder", "uni")
    assert code == 2 and "--encoder is for files" in error
