"""load_encoder on what histojax itself wrote: runs, their exports and checkpoints, files with a card."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from finished_run import make_run, tiny_config
from flax import nnx
from reading import read_tree

from histojax.common.errors import UserError
from histojax.models.network import abstract
from histojax.models.vit import ViTConfig
from histojax.ssl.trainable import whole
from histojax.training.recipe import backbone_config
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import Link
from histojax.weights.write import write_weights
from histojax.zoo import table
from histojax.zoo.encoder import load_encoder
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile
from histojax.zoo.run_weights import find_run
from histojax.zoo.trained import path_of

GOLDEN = Path(__file__).parents[1] / "golden" / "extractors"
HIBOU = GOLDEN / "hf_dinov2reg_hibou_like.safetensors"
TILES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, state) of a run that ended, of two blocks and 28 px."""
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


def by_hand(backbone):
    """Class tokens of TILES by the training's own network."""
    network = nnx.merge(abstract(finished_config())[0], jax.tree.map(jax.numpy.asarray, dict(backbone)))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return np.asarray(network((TILES.astype(np.float32) / 255 - mean) / std)["cls"])


def finished_config():
    """Of the network of the run."""
    return backbone_config(tiny_config())


def test_a_run_gives_features_in_two_lines(finished, capsys, monkeypatch):
    monkeypatch.setattr("histojax.zoo.encoder._shown", set())  # lines are printed once a process
    folder, state = finished
    encoder = load_encoder(str(folder), batch_size=3)
    features = encoder(TILES)
    np.testing.assert_allclose(features, by_hand(state.parameters("teacher")["backbone"]), atol=3e-5, rtol=1e-5)
    assert encoder.record.name == "tiny_vit_micro" and encoder.features == 64 and encoder.config.grid == 4
    assert [one.what for one in encoder.licences] == ["uni"] and encoder.record.commercial is False
    assert "tiny_vit_micro: these weights come from uni: CC-BY-NC-ND-4.0" in capsys.readouterr().err
    assert encoder.weights == "teacher_checkpoint.safetensors" and len(encoder.weights_sha256) == 64


@pytest.mark.parametrize(
    "part", ["export", "export/timm", "export/timm/model.safetensors", "export/teacher_checkpoint.safetensors",
             "checkpoints", "checkpoints/0"],
)  # fmt: skip
def test_every_part_of_a_run_is_the_same_encoder(part, finished):
    whole, encoder = load_encoder(finished[0], batch_size=3), load_encoder(finished[0] / part, batch_size=3)
    assert (encoder.config, encoder.preprocess_hash) == (whole.config, whole.preprocess_hash)
    assert [one.what for one in encoder.licences] == ["uni"]
    np.testing.assert_allclose(encoder(TILES), whole(TILES), atol=1e-6)


def test_the_student_and_a_moved_export(finished, tmp_path):
    folder, state = finished
    shutil.copytree(folder / "export", tmp_path / "moved")
    for path in (folder, folder / "checkpoints" / "0", tmp_path / "moved"):
        student = load_encoder(path, which="student", batch_size=3)
        positions = state.parameters("student")["backbone"]["pos_embed"]
        np.testing.assert_array_equal(student.parameters["pos_embed"], positions)
    with pytest.raises(UserError, match="a run has a teacher and a student, no 'ema'"):
        load_encoder(folder, which="ema")


def test_low_rank_pairs_are_in_the_kernels_of_what_others_load(tmp_path):
    folder, state = make_run(tmp_path / "pairs", train="lora:2@last:1", change=lambda leaf: 0.1 * leaf)
    expected = whole(state.parameters("teacher"))["backbone"]
    for part in ("export/timm", "export/teacher_checkpoint.safetensors", "checkpoints"):
        found = load_encoder(folder / part, batch_size=3).parameters
        for name in ("blocks", "norm"):
            assert jax.tree.all(jax.tree.map(np.array_equal, found[name], expected[name])), part


def test_the_chain_of_licences_is_judged(finished):
    for path in (finished[0], finished[0] / "export" / "timm", finished[0] / "checkpoints" / "0"):
        with pytest.raises(UserError, match="the licence of uni forbids commercial use"):
            load_encoder(path, commercial=True)


def test_a_run_from_nothing_may_be_sold(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("histojax.zoo.encoder._shown", set())
    folder, _ = make_run(tmp_path / "own", sources=[])
    for path in (folder, folder / "checkpoints" / "0"):
        assert load_encoder(path, commercial=True).licences == ()
    assert "licence yours: trained from random parameters; commercial use: yes" in capsys.readouterr().err


def test_options_reach_our_own_encoders(finished):
    both = load_encoder(finished[0], pooling="cls+mean", resize=False, batch_size=3)
    assert both.features == 128 and both.preprocess_hash != load_encoder(finished[0]).preprocess_hash
    with pytest.raises(UserError, match="a tile of 30x30 px cannot be fed as it is: the network takes 28 px"):
        both(np.zeros((1, 30, 30, 3), np.uint8))
    with pytest.raises(UserError, match="is a path of weights itself; leave `weights` out"):
        load_encoder(finished[0], HIBOU)


def test_what_has_nothing_to_load_says_what_it_is(finished, tmp_path):
    bare = tmp_path / "begun"
    bare.mkdir()
    shutil.copy(finished[0] / "config.json", bare)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    shutil.copy(HIBOU, tmp_path / "x.safetensors")
    for name, message in (
        (
            bare,
            "begun: the run has saved nothing yet, neither an export nor a whole checkpoint; let it reach its first",
        ),
        (tmp_path / "empty", "empty: neither the folder of a training run"),
        (tmp_path / "notes.txt", r"notes\.txt: not a weight file \(\.safetensors"),
        (tmp_path / "x.safetensors", r"x\.safetensors: nothing beside it says which network .* load_encoder\(NAME"),
        (tmp_path / "absent", "absent: no such file or folder$"),
        (str(tmp_path / "absent"), "absent: no such file or folder$"),
        ("runs/absent", "runs/absent: no such file or folder, and no encoder of that name"),
        ("absent.pth", r"absent\.pth: no such file or folder$"),
        (finished[0] / "checkpoints" / "7", r"7: no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            load_encoder(name)


def test_a_checkpoint_that_went_wrong_is_refused(tmp_path):
    folder, _ = make_run(tmp_path / "sick", change=lambda x: x * np.float32("nan"), export=False)
    with pytest.raises(UserError, match=r"checkpoints/0: .* has NaN; take an earlier checkpoint"):
        load_encoder(folder)


def test_an_export_that_a_later_checkpoint_overtook_is_said(finished, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(finished[0], folder)
    (folder / "checkpoints" / "0").rename(folder / "checkpoints" / "12")
    assert "of step 9, when it was exported; the newest checkpoint is of step 12" in load_encoder(folder).notes


def test_files_with_a_card(tmp_path):
    """A ViT without a name in the table: its card tells heads, epsilon, input and licences."""
    tree = read_tree(HIBOU).tree
    rule = InputRule(64, 56, "bicubic", (0.5,) * 3, (0.25,) * 3)
    facts = {"name": "somebodys", "pooling": "mean", "mpp": 0.5}
    chain = [Link("x", "MIT", True, True)]
    path = write_weights(tmp_path / "out", tree, "hf", facts, heads=4, eps=1e-5, rule=rule, chain=chain)
    for place in (path, path.parent):
        encoder = load_encoder(place, commercial=True, batch_size=3)
        record = encoder.record
        assert (record.name, record.pooling, record.mpp, record.features) == ("somebodys", "mean", 0.5, 32)
        assert (encoder.config.eps, encoder.config.heads, encoder.config.registers) == (1e-5, 4, 4)
        assert record.preprocess == Preprocess(64, 56, "bicubic", (0.5,) * 3, (0.25,) * 3)
        assert encoder(TILES).shape == (3, 32)
    write_weights(tmp_path / "bare", tree, "histojax", {}, heads=4, chain=chain)
    with pytest.raises(UserError, match="its card does not say which input the network wants"):
        load_encoder(tmp_path / "bare")


def test_a_converted_encoder_is_that_encoder(tmp_path, monkeypatch):
    config = ViTConfig(32, 2, 4, 14, image=56, registers=4, ffn="swiglu", hidden=88, interpolation="antialias")
    rule = Preprocess(64, 56, mean=(0.7, 0.6, 0.7))
    made = EncoderRecord("tiny_hibou", config, (WeightFile("x"),), rule, "cls+mean", 64, 0.5, "MIT", commercial=True)
    monkeypatch.setitem(table.ENCODERS, made.name, made)
    facts, rule = {"encoder": made.name}, InputRule(84, 84, "bicubic")
    write_weights(tmp_path / "out", read_tree(HIBOU).tree, "timm", facts, heads=4, rule=rule)
    encoder = load_encoder(tmp_path / "out", batch_size=3)
    assert encoder.record.name == made.name and encoder.features == 64 and encoder.config.image == 84
    assert encoder.preprocess.mean == made.preprocess.mean


def test_names_before_paths_that_are_not_ours(tmp_path, monkeypatch, finished, capsys):
    monkeypatch.chdir(tmp_path)
    Path("uni").mkdir()
    assert path_of("uni") is None and path_of("./uni") is None and path_of(Path("uni")) == Path("uni")
    shutil.copytree(finished[0], "virchow")
    assert load_encoder("virchow", batch_size=3).record.name == "tiny_vit_micro"
    assert "virchow: the weights in this folder, not the published encoder" in capsys.readouterr().err
    assert path_of("virchow") == Path("virchow") and find_run("virchow/checkpoints/0").step == 0
    monkeypatch.chdir("virchow/checkpoints/0")
    assert find_run(".").step == 0
