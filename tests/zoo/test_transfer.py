"""What `convert` and `export` know of weights, and what they say where they do not know."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from reading import read_tree
from safetensors.numpy import load_file, save_file

from histojax.__main__ import main as histojax
from histojax.common.files import file_sha256
from histojax.models.vit import ViTConfig
from histojax.weights.write import write_weights
from histojax.zoo import table
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile
from histojax.zoo.stated import heads_by_size, stated_beside, usual_eps

GOLDEN = Path(__file__).parents[1] / "golden" / "extractors"
VIRCHOW = GOLDEN / "timm_virchow2_like.safetensors"
LUNIT = GOLDEN / "timm_lunit_like_dino_checkpoint.pth"


def run(capsys, *words):
    code = histojax([*map(str, words)])
    return code, *capsys.readouterr()


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


@pytest.fixture
def record(monkeypatch, tmp_path_factory):
    """A record whose published file is the tiny golden one."""
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    config = ViTConfig(32, 2, 4, 14, image=56, registers=4, ffn="swiglu", hidden=85, positions="all", mask_token=False)
    file = WeightFile("virchow_like.safetensors", VIRCHOW.as_uri(), sha256=file_sha256(VIRCHOW))
    rule = Preprocess(64, 56, mean=(0.5,) * 3, std=(0.25,) * 3)
    made = EncoderRecord(
        "tiny_virchow", config, (file,), rule, "cls+mean", 64, 0.5, "CC-BY-NC-ND-4.0",
        commercial=False, derivatives=False,
    )  # fmt: skip
    monkeypatch.setitem(table.ENCODERS, made.name, made)
    monkeypatch.setitem(table._RECORDS, table.spelling(made.name), made)
    monkeypatch.setitem(table._FILES, table.spelling(made.name), (made, file))
    return made


@pytest.mark.parametrize("source", ["tiny-virchow", VIRCHOW.as_uri(), VIRCHOW], ids=["name", "address", "file"])
def test_an_encoder_is_known_by_its_name_its_address_and_its_hash(source, capsys, tmp_path, record):
    code, out, error = run(capsys, "convert", source, "--out", tmp_path / "out")
    assert code == 0 and "warning: DERIVATIVES FORBIDDEN by the licence of tiny_virchow" in error
    card = card_of(tmp_path / "out")
    assert card["encoder"] == "tiny_virchow" and card["architecture"]["heads"] == 4 and card["mpp"] == 0.5
    assert card["preprocessing"] == {"size": 64, "crop": 56, "filter": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    assert card["features"] == 64 and card["pooling"] == "cls+mean" and "assumed" not in card
    code = 'histojax.load_encoder("tiny_virchow", weights="THIS_FOLDER")'
    assert code in (tmp_path / "out" / "README.md").read_text()
    assert [one["what"] for one in card["licences"]] == ["tiny_virchow"]
    assert ("its SHA-256 is that of the published file" in out) == (source == VIRCHOW)
    code, _, error = run(capsys, "convert", source, "--out", tmp_path / "no", "--commercial")
    assert code == 2 and "the licence of tiny_virchow forbids commercial use" in error
    assert not (tmp_path / "no").exists()


def test_a_file_of_another_network_than_its_name_says(capsys, tmp_path, record, monkeypatch):
    small = dataclasses.replace(record, network=dataclasses.replace(record.network, depth=3))
    monkeypatch.setitem(table._FILES, table.spelling(record.name), (small, record.weights[0]))
    code, _, error = run(capsys, "convert", "tiny_virchow", "--out", tmp_path / "out")
    assert code == 2 and "the model expects (3, 32, 96)" in error and not list(tmp_path.iterdir())


# heads and epsilons


def tree_of_size(dim, depth):
    return {"blocks": {"attn": {"qkv": {"kernel": np.empty((depth, dim, 3 * dim), "V0")}}}}


@pytest.mark.parametrize(
    "family, dim, depth, heads, who",
    [
        ("vit", 1280, 32, 16, "virchow, virchow2"),  # 80 channels each, not 64
        ("vit", 1536, 24, 24, "uni2_h"),
        ("dinov3", 1280, 32, 20, "dinov3_vith16plus"),
        ("vit", 192, 12, 3, "vit_tiny"),  # of our own training
        ("vit", 128, 3, None, ""),
    ],
)
def test_heads_of_known_sizes(family, dim, depth, heads, who):
    found, names = heads_by_size(family, tree_of_size(dim, depth))
    assert found == heads and names.startswith(who)


def test_heads_are_not_guessed(capsys, tmp_path):
    for command in (("convert",), ("export", "--to", "timm")):
        words = (command[0], VIRCHOW, *command[1:], "--out", tmp_path / "out")
        code, _, error = run(capsys, *words)
        assert code == 2 and "timm_virchow2_like.safetensors: nothing says how many attention heads" in error
        assert not list(tmp_path.iterdir())
    assert run(capsys, "convert", VIRCHOW, "--check")[0] == 0
    assert run(capsys, *words, "--heads", 4)[0] == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_args"]["num_heads"] == 4
    code, _, error = run(capsys, "convert", tmp_path / "out", "--heads", 2, "--check")
    assert code == 2 and "--heads 2, but out has 4; leave --heads out" in error


def test_the_configs_of_other_libraries_are_read(tmp_path, capsys):
    for file in ("hf_dinov2reg_hibou_like", "timm_virchow2_like"):
        folder = tmp_path / file
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((GOLDEN / f"{file}.safetensors").read_bytes())
    hf, timm = tmp_path / "hf_dinov2reg_hibou_like", tmp_path / "timm_virchow2_like"
    hf_config = {"hidden_size": 32, "num_attention_heads": 4, "layer_norm_eps": 1e-12}
    (hf / "config.json").write_text(json.dumps(hf_config))
    (timm / "config.json").write_text(json.dumps({"num_features": 32, "model_args": {"num_heads": 4}}))
    tree = read_tree(hf).tree
    assert stated_beside(hf, "vit", tree) == (4, 1e-12) == stated_beside(hf / "model.safetensors", "vit", tree)
    assert stated_beside(timm, "vit", tree) == (4, None)
    code, out, _ = run(capsys, "convert", hf, "--out", tmp_path / "out")
    assert code == 0 and card_of(tmp_path / "out")["architecture"]["eps"] == 1e-12 and "assumed" not in out
    (hf / "config.json").write_text(json.dumps(hf_config | {"hidden_size": 64}))  # of something else
    assert stated_beside(hf, "vit", tree) == (None, None)
    (hf / "config.json").write_text("[")
    assert stated_beside(hf, "vit", tree) == (None, None)


def test_the_epsilon_of_a_bare_file_is_called_assumed(capsys, tmp_path):
    code, out, _ = run(capsys, "convert", VIRCHOW, "--heads", 4, "--out", tmp_path / "out")
    sentence = "a LayerNorm epsilon of 1e-06, usual in files of this layout"
    assert code == 0 and f"assumed    {sentence}" in out
    assert card_of(tmp_path / "out")["assumed"] == [sentence]
    assert f"> Assumed, not stated by the source: {sentence}." in (tmp_path / "out" / "README.md").read_text()
    run(capsys, "convert", tmp_path / "out", "--out", tmp_path / "again", "--to", "timm")
    assert card_of(tmp_path / "again")["assumed"][0] == sentence  # it stays one
    assert (usual_eps("vit", "hf-vit"), usual_eps("vit", "timm"), usual_eps("swin", "timm")) == (1e-12, 1e-6, 1e-5)


def test_an_epsilon_that_the_library_cannot_have_is_a_warning(capsys, tmp_path):
    write_weights(tmp_path / "own", read_tree(LUNIT).tree, "histojax", {}, heads=4, eps=1e-12)
    code, _, error = run(capsys, "export", tmp_path / "own", "--to", "timm", "--out", tmp_path / "out")
    assert code == 0 and "warning: LayerNorm epsilon: this network has 1e-12 and timm builds it with 1e-06" in error
    code, _, error = run(capsys, "export", tmp_path / "own", "--to", "hf", "--out", tmp_path / "hf")
    assert code == 0 and "epsilon" not in error


# arguments that contradict what is known


def test_contradictions(capsys, tmp_path, record):
    for words, message in (
        (
            ("tiny_virchow", "--licence", "MIT"),
            "--licence is for a file whose licence is not known; this one's is tiny_",
        ),
        (("tiny_virchow", "--heads", "8"), "--heads 8, but tiny_virchow has 4; leave --heads out"),
        ((GOLDEN / "timm_hoptimus_like.safetensors", "--which", "student"), "has one set of weights, neither of a"),
        (
            (GOLDEN / "timm_hoptimus_like.safetensors", "--which", "ema"),
            "no network under 'ema'; found: the whole file",
        ),
    ):
        code, _, error = run(capsys, "convert", *words, "--out", tmp_path / "out")
        assert code == 2 and message in error.splitlines()[-1], error
        assert not list(tmp_path.iterdir())
    assert run(capsys, "convert", LUNIT, "--which", "student", "--heads", 4, "--out", tmp_path / "out")[0] == 0


def test_positions_that_fit_no_grid_name_the_file(capsys, tmp_path, record):
    odd = load_file(VIRCHOW) | {"pos_embed": np.zeros((1, 200, 32), np.float32)}
    save_file(odd, tmp_path / "odd.safetensors")
    for more in ((), ("--encoder", "tiny_virchow")):
        code, _, error = run(capsys, "convert", tmp_path / "odd.safetensors", "--check", *more)
        assert code == 2 and "odd.safetensors: " in error and "pos_embed has 200 rows" in error
