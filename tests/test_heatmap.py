"""`histojax heatmap` through its entry point, and the inputs that it cannot draw."""

from __future__ import annotations

import types

import numpy as np
import pytest
from PIL import Image

from histojax import heatmap
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import save_head
from histojax.evaluation.mil.models import draw_params
from histojax.evaluation.mil.settings import HeadSettings
from histojax.features.feature_file import Rows, write_features
from histojax.features.stored import Geometry, Origin


@pytest.fixture
def made(tmp_path):
    """A slide of 256 x 192 px with 12 tiles of 64 px, their features, patch tokens, and a head."""
    rng = np.random.default_rng(0)
    (tmp_path / "slides").mkdir()
    Image.fromarray(rng.integers(0, 255, (192, 256, 3)).astype(np.uint8)).save(tmp_path / "slides" / "a.png")
    coords = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 64
    rows = Rows(rng.normal(size=(12, 6)), coords, tokens=rng.normal(size=(12, 4, 5)), grid=(2, 2))
    (tmp_path / "features").mkdir()
    write_features(
        tmp_path / "features" / "a.h5", "a", rows, Geometry(64, 0.5, 64.0, slide_mpp=0.5), Origin("x", "vits")
    )
    settings = HeadSettings("attention", inputs=6, outputs=1, width=4, hidden=4, dropout=0.0)
    save_head(tmp_path / "head.safetensors", Head(settings, "classification", ("no", "yes"), draw_params(settings, 0)))
    return tmp_path


def run(made, *words: str) -> int:
    return heatmap.main([*(word.replace("@", f"{made}/") for word in words), "--out", str(made / "out")])


def test_a_slide_and_a_feature_file_give_the_same_maps(made, capsys, monkeypatch):
    monkeypatch.setattr("histojax.report.heatmap.LONG_SIDE", 200)
    assert run(made, "@slides/a.png", "--features", "@features", "--head", "@head.safetensors") == 0
    names = {"a_attention.png", "a_yes.png", "a.geojson", "a.csv", "a_top.jpg"}
    assert {path.name for path in (made / "out").iterdir()} == names
    table = (made / "out" / "a.csv").read_text()
    assert table.startswith("x,y,attention,yes\n0,0,") and len(table.splitlines()) == 13
    assert "a: no: 0." in capsys.readouterr().out
    assert run(made, "@features/a.h5", "--head", "@head.safetensors") == 0
    assert (made / "out" / "a.csv").read_text() == table and "only the tiles are drawn" in capsys.readouterr().err


def test_stored_patch_tokens_become_colours(made, capsys):
    assert run(made, "@features/a.h5", "--tokens") == 0
    assert (made / "out" / "a_tokens.png").is_file() and "6 x 8 tokens of 12 tiles" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "shape"), [([], (24, 32)), (["--region", "0,0,128,64", "--mpp", "0.5"], (8, 16))])
def test_an_image_and_a_region_are_computed(made, capsys, monkeypatch, words, shape):
    def tokens(tiles):
        return tiles.reshape(len(tiles), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(tiles), 16, 3)

    record, rule = types.SimpleNamespace(name="vits"), types.SimpleNamespace(side=32)
    encoder = types.SimpleNamespace(record=record, preprocess=rule, tokens=tokens)
    monkeypatch.setattr("histojax.zoo.encoder.load_encoder", lambda *_, **__: encoder)
    assert run(made, "@slides/a.png", "--tokens", "--encoder", "vits", *words) == 0
    assert f"{shape[0]} x {shape[1]} tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["@features/a.h5"], "either --head HEAD"),
        (["@none.h5", "--head", "h"], "no such file"),
        (["--head", "h"], "no slide and no feature file"),
        (["@slides/a.png", "--head", "@head.safetensors"], "--features DIR"),
        (["@slides/a.png", "--features", "@slides", "--head", "@head.safetensors"], "no features a.h5"),
        (["@features/a.h5", "--slides", "@features", "--head", "@head.safetensors"], "no slide a"),
        (["@features/a.h5", "--head", "@slides/a.png"], "a.png"),
        (["@slides/a.png", "--tokens"], "needs --encoder NAME"),
        (["@slides/a.png", "--tokens", "--region", "1,2,3"], "expected X,Y,WIDTH,HEIGHT"),
        (["@features/a.h5", "--head", "@head.safetensors", "--top", "x"], "--top"),
    ],
)
def test_bad_input_ends_in_one_line(made, capsys, words, said):
    assert run(made, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
