"""`histojax evaluate patch` as it is called."""

from __future__ import annotations

import json

import numpy as np
import pytest
from finished_run import make_run
from PIL import Image

from histojax.evaluate import main
from histojax.evaluation.results import read_results

QUICK = "--draws 20 --few-draws 2 --shots 1,2 --k 3".split()


def run(capsys, *words):
    code = main(["patch", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def arrays(path, seed, groups=None, shift=0.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 4)) + 3 * labels[:, None] + shift
    extra = {} if groups is None else {"groups": np.array([f"{groups}{i // 4}" for i in range(40)])}
    np.savez(path, features=features, labels=labels, **extra)
    return path


@pytest.fixture
def sets(tmp_path):
    return arrays(tmp_path / "a.npz", 0, "p"), arrays(tmp_path / "b.npz", 1, "q")


def test_feature_files_give_results_scores_and_a_report(capsys, tmp_path, sets):
    out = tmp_path / "out"
    code, printed, err = run(capsys, "--train", sets[0], "--test", sets[1], "--out", out, "--name", "mine", *QUICK)
    assert code == 0, err
    assert {p.name for p in out.iterdir()} == {
        *("results.json", "predictions.csv", "scores.csv", "few_shot.csv", "report.html")
    }
    assert read_results(out).score("knn", "accuracy").value > 0.9 and "knn on test" in printed
    code, _, err = run(capsys, "--train", sets[1], "--test", sets[0], "--out", out, *QUICK)
    assert code == 2 and "results of another evaluation" in err
    for flags in (["--seed", 7], ["--c", 0.5], ["--knn", "raw,cosine"]):
        code, _, err = run(capsys, "--train", sets[0], "--test", sets[1], "--out", out, *QUICK, *flags)
        assert code == 2 and "results of another evaluation" in err
    assert run(capsys, "--train", sets[0], "--test", sets[1], "--out", out, *QUICK)[0] == 0


def test_one_set_is_parted_by_patient(capsys, tmp_path, sets):
    code, _, err = run(capsys, "--train", sets[0], "--out", tmp_path / "out", *QUICK)
    facts = json.loads((tmp_path / "out" / "results.json").read_text())["facts"]
    assert code == 0 and "by group" in facts["split"], err


def test_leaks_are_refused_unless_allowed(capsys, tmp_path, sets):
    shared = arrays(tmp_path / "c.npz", 2, "p")
    words = ("--train", sets[0], "--test", shared, "--out", tmp_path / "out", *QUICK)
    code, _, err = run(capsys, *words)
    assert code == 2 and "10 patients" in err and err.count("\n") == 1
    code, _, err = run(capsys, *words, "--allow-leaks")
    facts = json.loads((tmp_path / "out" / "results.json").read_text())["facts"]
    assert code == 0 and facts["leakage"]["allowed"] and facts["leakage"]["shared"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--k", "0"], "--k: expected"),
        (["--knn", "l1"], "one or more of raw"),
        (["--c", "-1"], "--c: expected a number above 0"),
        (["--test-share", "0.9"], "up to 0.5"),
        (["--histogram"], "go with --encoder"),
        (["--tests", "x"], "did you mean --test"),
        (["--labels", "gone.csv"], "gone.csv"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, tmp_path, sets, words, message):
    code, out, err = run(capsys, "--train", sets[0], "--out", tmp_path / "out", *words)
    assert code == 2 and message in err and err.count("error:") == 1 and not out


def test_help_teaches(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"--{flag}" in out for flag in ("train", "ssl", "allow-leaks", "labels", "knn", "draws"))


def test_tiles_of_a_table_are_extracted_first(capsys, tmp_path):
    run_folder = make_run(tmp_path / "mine", layouts=("meta",))[0]
    lines = ["file,label,patient"]
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 120, (32, 32, 3)).astype(np.uint8)
        pixels[..., i % 2] += 100
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},p{i // 2}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines))
    out, words = tmp_path / "out", ["--encoder", run_folder, "--histogram", "--workers", "0", *QUICK]
    code, _, err = run(capsys, "--train", tmp_path / "tiles.csv", "--out", out, *words)
    assert code == 0, err
    folders = {p.name for p in out.iterdir() if (p / "results.json").exists()}
    assert folders == {"mine", "colour_histogram"}
    results = read_results(out / "colour_histogram")
    assert results.score("knn", "accuracy").value == 1 and "by patient" in results.facts["split"]
    assert b"data:image" in (out / "colour_histogram" / "report.html").read_bytes()
