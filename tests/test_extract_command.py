"""`histojax extract` through its entry point: a trained run on slides, its words, its exit codes; and on Ray."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from finished_run import make_run
from PIL import Image
from tiny_encoders import picture, write_slide

from histojax.__main__ import main
from histojax.features.read import read_features
from histojax.zoo.encoder import load_encoder

SMALL = ["--tile-px", "32", "--tissue", "none", "--checks", "none", "--mpp", "1.0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "mine", layouts=("meta",))[0]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_slide(folder / f"s{number}.png", (3, 2), number)
    return folder


def extract(run, inputs, out, *words, workers="0"):
    flags = ["--kind", "slides", *SMALL] if words[:1] != ("patches",) else ["--kind", "patches"]
    given = [
        "extract",
        "--encoder",
        str(run),
        "--input",
        str(inputs),
        "--out",
        str(out),
        "--workers",
        workers,
        "--batch-size",
        "8",
    ]
    return main([*given, *flags, *words[1 if words[:1] == ("patches",) else 0 :]])


def test_a_run_on_slides(run, slides, tmp_path, capsys):
    assert extract(run, slides, tmp_path) == 0
    said = capsys.readouterr()
    assert "slides      2: 2 done now, 0 before, 0 could not be used" in said.out and "12 computed now" in said.out
    found = read_features(tmp_path / "10x_32px_0px_overlap/features_mine/s0.h5")
    tiles = np.stack([picture(96, 64)[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)])
    np.testing.assert_allclose(found.features, load_encoder(run)(tiles), rtol=1e-4, atol=1e-4)
    assert found.origin.encoder == "tiny_vit_micro" and found.origin.licences[0].what == "uni"
    assert extract(run, slides, tmp_path, "--clam") == 0
    assert "0 done now, 2 before" in capsys.readouterr().out
    assert len(list(tmp_path.glob("10x_32px_0px_overlap/clam_mine/*/*"))) == 4


def test_student_beside_teacher(run, slides, tmp_path, capsys):
    assert extract(run, slides, tmp_path) == 0
    assert extract(run, slides, tmp_path, "--which", "student") == 2
    assert "begun with another mine (weights was" in capsys.readouterr().err
    assert extract(f"student={run}", slides, tmp_path, "--which", "student") == 0
    folder = tmp_path / "10x_32px_0px_overlap"
    one, other = (read_features(folder / f"features_{name}/s0.h5") for name in ("mine", "student"))
    assert one.origin.weights_sha256 != other.origin.weights_sha256 and (one.features != other.features).any()


def test_patches_and_a_slide_that_cannot_be_used(run, slides, tmp_path, capsys):
    (tmp_path / "in" / "TUM").mkdir(parents=True)
    Image.fromarray(picture(32, 32)).save(tmp_path / "in" / "TUM" / "a.png")
    assert extract(run, tmp_path / "in", tmp_path / "out", "patches") == 0
    assert read_features(tmp_path / "out/features_mine/in.h5").names.tolist() == ["TUM/a.png"]
    (tmp_path / "none.svs").write_bytes(b"")
    assert extract(run, tmp_path / "none.svs", tmp_path / "slides", "--input", str(slides)) == 1
    assert "failed" in capsys.readouterr().out
    assert "none.svs" in (tmp_path / "slides/10x_32px_0px_overlap/failed.csv").read_text()
    assert extract(run, tmp_path / "none.svs", tmp_path / "alone") == 2
    assert "none of 1 slides gave features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "dinov2_vits15"], "no encoder of that name; did you mean"),
        (["--weights", "a", "--weights", "b"], "--weights: given 2 times for 1 encoders"),
        (["--shard", "3/2"], "--shard: expected I/N"),
        (["--batch-size", "0"], "--batch-size: expected a whole number"),
        (["--mpp", "1e-6"], "--mpp 1e-6"),
        (["--encodr", "x"], "did you mean --encoder?"),
        (["--commercial"], "forbids commercial use"),
        (["--encoder", "b d=uni"], "expected FOLDER=NAME"),
    ],
)
def test_mistakes_are_one_line(run, slides, tmp_path, capsys, words, message):
    assert extract(run, slides, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("histojax extract: error: ")
    assert not list(tmp_path.rglob("*.h5"))


def test_flags_of_slides_are_not_ignored_for_patches(run, slides, tmp_path, capsys):
    given = ["extract", "--encoder", str(run), "--input", str(slides), "--out", str(tmp_path)]
    assert main([*given, "--tile-px", "32"]) == 2  # a folder of images is patches
    assert "--tile-px is for slides, and" in (said := capsys.readouterr().err) and "--kind slides" in said
    assert not list(tmp_path.rglob("*.h5"))


def test_the_size_of_patch_tokens_is_said_first(run, slides, tmp_path, capsys):
    assert extract(run, slides, tmp_path / "a", "--patch-tokens") == 0
    assert "patch tokens: 0.00 MB a tile; --save float16 halves them" in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(32, 32)).save(tmp_path / "in" / "a.png")
    assert extract(run, tmp_path / "in", tmp_path / "b", "patches", "--patch-tokens", "--save", "float16") == 0
    assert "MB a tile, 0.0 GB for 1 tiles (" in capsys.readouterr().err


def test_help(capsys):
    assert main(["extract", "--help"]) == 0
    assert "--patch-tokens" in capsys.readouterr().out
    assert main(["extract"]) == 2


def test_slides_as_tasks_on_ray(run, slides, tmp_path, capsys, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *(p for p in sys.path if p)]))
    ray.init(
        address="local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        assert extract(run, slides, tmp_path / "ray", "--executor", "ray", workers="1") == 0
        assert "2 done now" in capsys.readouterr().out
        assert extract(run, slides, tmp_path / "ray", "--executor", "ray", workers="1") == 0
        assert "0 done now, 2 before" in capsys.readouterr().out
    finally:
        ray.shutdown()
    assert extract(run, slides, tmp_path / "here") == 0
    for name in ("s0", "s1"):
        path = f"10x_32px_0px_overlap/features_mine/{name}.h5"
        one, other = read_features(tmp_path / "ray" / path), read_features(tmp_path / "here" / path)
        np.testing.assert_allclose(one.features, other.features, rtol=1e-4, atol=1e-4)
        assert one.origin == other.origin
