"""tools/bench_extract.py: turns of the sides, the table, and what it refuses; the readings themselves are made up."""

import json

import bench_extract
import numpy as np
import pytest

from histojax.zoo.table import find


@pytest.fixture
def made_up(monkeypatch):
    """Readings in which PyTorch takes twice the time, and the order in which they were asked for."""
    asked = []

    def reading(name, side, values):
        asked.append((name, side))
        factor = 1 if side == "jax" else 2
        return {"images": 10.0 / factor + len(asked) / 100, "cpu": 0.1 * factor}

    monkeypatch.setattr(bench_extract, "reading", reading)
    monkeypatch.setattr(bench_extract.importlib.util, "find_spec", lambda name: True)
    return asked


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["bench_extract.py", *words])
    return bench_extract.main()


def test_sides_take_turns_and_the_table_compares_them(made_up, monkeypatch, capsys, tmp_path):
    file = tmp_path / "r.json"
    assert run(monkeypatch, "vits14", "resnet50", "--sides", "jax,torch,hf", "--rounds", "2", "--json", str(file)) == 0
    first = [("vits14", side) for side in ("jax", "torch", "hf")] + [("resnet50", side) for side in ("jax", "torch")]
    assert made_up[:5] == first and made_up[5:8] == [("vits14", side) for side in ("hf", "torch", "jax")]
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 6 and rows[1].startswith("ViT-S/14    jax") and "2.00x" in rows[2] and "ResNet-50" in rows[4]
    stored = json.loads(file.read_text())
    assert next((row["model"], row["side"], len(row["readings"])) for row in stored) == ("vits14", "jax", 2)


@pytest.mark.parametrize(
    "words, message",
    [
        (("vitx",), "unknown model 'vitx'; known are vits14"),
        (("--sides", "jax,tf"), "unknown side 'tf'"),
        (("--rounds", "0"), "must be 1 or more"),
    ],
)
def test_bad_arguments(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *words)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_pytorch_may_be_missing(monkeypatch, capsys):
    monkeypatch.setattr(bench_extract.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        run(monkeypatch, "vits14")
    assert "torch is not installed: pip install '.[bench]', or --sides jax" in capsys.readouterr().err


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
