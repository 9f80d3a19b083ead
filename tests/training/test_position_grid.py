"""Crops of one size, features at another: what is stored of the position grid, and that reading costs nothing."""

import json

import jax
import numpy as np
import pytest
from finished_run import make_run
from tiny_recipe import tiny_config, tiny_recipe

from histojax.__main__ import main as histojax
from histojax.common.bicubic import resample_matrix
from histojax.models.vit import ViTConfig
from histojax.ssl.step import make_features
from histojax.ssl.trainable import whole
from histojax.training.evaluation_tiles import open_evaluation, open_training
from histojax.training.first_state import first_state
from histojax.training.plan import plan
from histojax.training.recipe import recipe_of
from histojax.training.start import Start, load_start
from histojax.weights.write import write_weights
from histojax.zoo.encoder import load_encoder
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile
from histojax.zoo.run_weights import reading_of

TILES = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), np.uint8)
READ_AT_56 = {"eval__image_px": 56, "model__position_load": "offset"}  # the crops are of 28 px, the patches of 7
WHOLE = ("", "export/timm", "export/meta", "export/teacher_checkpoint.safetensors", "checkpoints/0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a network with a grid of 10 x 10, which DINOv2's library would read at 56 px."""
    backbone = jax.device_get(tiny_recipe(model__grid_px=70).init(jax.random.key(3))["backbone"])
    backbone["pos_embed"] = 50 * backbone["pos_embed"]  # large, so that a wrong grid shows
    return write_weights(tmp_path_factory.mktemp("start") / "weights", backbone, "meta", {}, heads=2)


def features_at_the_start(weights, **leaves):
    """(features of TILES as the evaluations take them before the first step, what the start says)."""
    config = tiny_config(**READ_AT_56, **leaves, model__weights=str(weights))
    recipe = recipe_of(config)
    start = load_start(config, recipe, offline=True)
    backbone = first_state(recipe, start, jax.random.key(0), None).parameters("teacher")["backbone"]
    return np.asarray(make_features(recipe)(backbone, TILES)), start.report


def test_before_the_first_step_the_features_are_those_of_the_starting_weights(weights):
    network = ViTConfig(64, 2, 2, 7, image=70, layerscale=1.0, interpolation="offset")
    record = EncoderRecord("start", network, (WeightFile("x"),), Preprocess(56, 56), "cls", 64, 0.5, "MIT")
    expected = load_encoder(record, weights, batch_size=4)(TILES)
    for grid_px, told in (
        (56, "position grid 10 x 10 resampled to 8 x 8, of 56 px (model.position_load=offset)"),
        (70, ""),
    ):
        for train in ("all", "last:1"):
            found, report = features_at_the_start(weights, model__grid_px=grid_px, model__train=train)
            np.testing.assert_allclose(found, expected, atol=3e-5)
            assert told in report and ("resampled" in report) == bool(told)
    coarse, report = features_at_the_start(weights)  # the grid of the crops, as the paper's
    assert np.abs(coarse - expected).max() > 0.01 and "resampled to 4 x 4, of 28 px" in report


def test_the_default_is_the_grid_of_the_global_crops():
    assert tiny_recipe(eval__image_px=56).vit.image == 28
    assert tiny_recipe(eval__image_px=56, model__grid_px=56).vit.grid == 8


@pytest.mark.parametrize(
    "grid_px, origin",
    [
        (0, "as trained, then resampled from 4 x 4 to 8 x 8 by 'offset'"),
        (56, "as trained)"),
        (70, "as trained, then resampled from 10 x 10 to 8 x 8 by 'offset'"),
    ],
)
def test_a_run_is_read_at_the_size_of_its_evaluations(grid_px, origin, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("histojax.zoo.encoder._shown", set())  # lines are printed once a process
    leaves = {"eval__image_px": 56, "model__grid_px": grid_px}
    folder, state = make_run(tmp_path / "mine", sources=[], change=lambda leaf: 0.3 * leaf, **leaves)
    backbone = whole(state.parameters("teacher"))["backbone"]
    assert backbone["pos_embed"].shape[1] == 1 + ((grid_px or 28) // 7) ** 2
    expected = make_features(recipe_of(tiny_config(**leaves)))(backbone, TILES)
    for part in WHOLE:
        encoder = load_encoder(folder / part, batch_size=4)
        assert (encoder.preprocess.side, encoder.config.grid) == (56, 8), part
        np.testing.assert_allclose(encoder(TILES), expected, atol=3e-5, err_msg=part)
    stored = load_encoder(folder / "export" / "timm").notes
    assert not any("resampled" in note for note in stored)  # its grid is that of 56 px
    for layout in ("timm", "meta"):
        assert origin in json.loads((folder / "export" / layout / "card.json").read_text())["positions"]
    said = "the position grid, 4 x 4 of 28 px, is enlarged to 8 x 8 for 56 px"
    assert (said in capsys.readouterr().err) == (grid_px == 0)
    _export_again(folder, tmp_path, expected, origin)


def _export_again(folder, tmp_path, expected, origin):
    """`histojax export` does as the training's own export, and another size is another input."""
    for part in ("", "export/teacher_checkpoint.safetensors"):
        out = tmp_path / (part or "again")
        assert histojax(["export", str(folder / part), "--to", "timm", "--out", str(out)]) == 0
        np.testing.assert_allclose(load_encoder(out, batch_size=4)(TILES), expected, atol=3e-5)
        assert "8 x 8, for 56 px input" in json.loads((out / "card.json").read_text())["positions"]
    out = tmp_path / "small"
    assert histojax(["export", str(folder), "--to", "timm", "--image", "28", "--out", str(out)]) == 0
    assert load_encoder(out).preprocess.side == 28


def test_the_card_tells_a_grid_that_was_not_trained():
    for train, words in (("all", "as trained"), ("last:1", "as the training found it (model.train=last:1 leaves")):
        config = tiny_config(**READ_AT_56, model__train=train)
        assert reading_of(config.to_dict()).grid.startswith(words)
    assert reading_of(tiny_config(model__interpolation="antialias").to_dict()).mode == "antialias"


def line_of_the_plan(**leaves):
    config = tiny_config(**leaves)
    source = open_training(config)
    text = plan(config, recipe_of(config), source, open_evaluation(config, source), Start())
    return next((line for line in text.splitlines() if line.startswith("positions ")), "")


def test_the_plan_says_which_grid_there_is():
    assert line_of_the_plan() == ""  # crops and read-out are of one size
    coarse = line_of_the_plan(eval__image_px=56)
    assert "grid 4 x 4, of 28 px; crops take it at 28 px, evaluations at 56 px; the position grid" in coarse
    assert coarse.endswith("model.grid_px=56 trains a grid of that size on the same crops")
    fixed = line_of_the_plan(eval__image_px=56, model__grid_px=56, model__train="last:1")
    assert fixed.endswith("evaluations at 56 px; model.train=last:1 leaves it alone")


def test_which_entries_of_a_grid_crops_move():
    """Crops of 112 and 56 px reach all of a grid for 224 px, and not all of one for 518 px."""

    def reached(crop, grid):
        return int((resample_matrix(crop, grid, "offset") != 0).any(axis=0).sum())

    assert [reached(crop, 16) for crop in (8, 4)] == [16, 16]
    assert [reached(crop, 37) for crop in (16, 8, 4)] == [37, 32, 16]
