"""tools/bench_extract.py: turns of the sides, the lines, and what it refuses; the readings themselves are made up."""

import json

import bench_extract
import numpy as np
import pytest

from histojax.zoo.table import find


@pytest.fixture
def asked(monkeypatch):
    """Readings in which PyTorch takes twice the time, and the order in which they were asked for."""
    seen = []

    def process(script, name, one, side, *words):
        seen.append((name, side))
        factor = 1 if side == "histojax" else 2
        return {"reading": [0.1 * factor, 0.2 * factor]}

    monkeypatch.setattr(bench_extract, "own_process", process)
    monkeypatch.setattr(bench_extract, "need", lambda *a, **k: None)
    return seen


def test_sides_take_turns_and_the_lines_compare_them(asked, capsys):
    assert bench_extract.main(["vits14", "resnet50", "--sides", "histojax,torch,hf", "--rounds", "2"]) == 0
    first = [("vits14", side) for side in ("histojax", "torch", "hf")]
    first += [("resnet50", side) for side in ("histojax", "torch")]
    assert asked[:5] == first and asked[5:8] == [("vits14", side) for side in ("hf", "torch", "histojax")]
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["case"] for row in rows] == ["ViT-S/14, 224 px, batch 16", "ResNet-50, 224 px, batch 16"]
    assert rows[0]["ratios"]["torch"] == {"wall": 2.0, "cpu": 2.0} and rows[0]["rounds"] == 2
    assert rows[0]["images_a_second"] == {"histojax": 10.0, "torch": 5.0, "hf": 5.0} and "hf" not in rows[1]["sides"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("vitx",), "unknown model 'vitx'; known are vits14"),
        (("--sides", "histojax,tf"), "unknown side 'tf'"),
        (("--rounds", "0"), "must be 1 or more"),
    ],
)
def test_bad_arguments(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        bench_extract.main([*words])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_pytorch_may_be_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        bench_extract.main(["vits14", "--peer"])
    assert "torch is not installed: pip install '.[bench]', or --sides histojax" in capsys.readouterr().err


def test_our_side_is_the_products_own_path(monkeypatch):
    """The features of load_encoder's network on a prepared uint8 batch."""
    seen = {}

    class Encoder:
        preprocess = find("resnet50").preprocess

        def prepare(self, tiles):
            seen["prepared"] = tiles
            return tiles

        def forward(self, prepared):
            return prepared[:, 0, 0].astype(np.float32)

    monkeypatch.setattr(
        "histojax.load_encoder", lambda *a, **k: seen.update(args=a, options=k) or Encoder(), raising=False
    )
    assert bench_extract.ours(bench_extract.MODELS["resnet50"], 2)().shape == (2, 3)
    assert seen["args"] == ("resnet50",) and seen["options"] == {"weights": "random", "batch_size": 2}
    assert seen["prepared"].shape == (2, 224, 224, 3) and seen["prepared"].dtype == np.uint8
    for model in bench_extract.MODELS.values():
        assert find(model.ours).preprocess.side == 224
