"""tools/thesis.py: how tiles are parted, what its report says; the commands that it runs have tests of their own."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import thesis
import thesis_report as report
from PIL import Image

from histojax.common.errors import UserError
from histojax.data.sources import open_source
from histojax.evaluation.patch_input import PatchSet, read_patches
from histojax.evaluation.results import TEST, Predictions, Results, Score


def asked(**changes):
    values = {"tiles": "synthetic:60", "more": [], "split": "auto", "test_share": 0.4, "weights": "", "draws": 50}
    return argparse.Namespace(**values | changes)


def test_whole_patients_are_tested_and_training_sees_none_of_them(tmp_path):
    folder = thesis.part_tiles(asked(more=["synthetic:80"]), tmp_path / "split")
    fit, test, train = (open_source(str(folder / f"{part}.csv")) for part in ("fit", "test", "train"))
    tested = {str(test.groups[i]) for i in range(len(test))}
    assert len(fit) + len(test) == 60 and len(train) > len(fit)
    assert not tested & {str(train.groups[i]) for i in range(len(train))}
    words = json.loads((folder / "split.json").read_text())["words"]
    assert words.startswith(
        f"by patient: {len(fit)} tiles to fit on, {len(test)} to test on; training sees {len(train)}"
    )
    assert f"; {140 - len(test) - len(train)} of --more are left out (0 of a stain of the test" in words


def test_a_copy_of_a_test_tile_under_another_patient_is_not_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},P{number // 2}")
    (tmp_path / "tiles.csv").write_text("\n".join(["file,label,patient", *rows]))
    (tmp_path / "more.csv").write_text("\n".join(["file,patient", *(f"{number}.png,Q" for number in range(8))]))
    asked_for = asked(tiles=str(tmp_path / "tiles.csv"), more=[str(tmp_path / "more.csv")])
    folder = thesis.part_tiles(asked_for, tmp_path / "split")
    test, more = (open_source(str(folder / f"{part}.csv")) for part in ("test", "more"))
    tested = {Path(test.name(i)).name for i in range(len(test))}
    assert tested and {Path(more.name(i)).name for i in range(len(more))} == {f"{n}.png" for n in range(8)} - tested


def test_a_split_is_made_once_and_never_for_other_tiles(tmp_path):
    thesis.part_tiles(asked(split="stain"), tmp_path / "split")
    before = (tmp_path / "split" / "test.csv").read_bytes()
    thesis.part_tiles(asked(split="stain"), tmp_path / "split")
    assert (tmp_path / "split" / "test.csv").read_bytes() == before
    with pytest.raises(UserError, match="choose another --out"):
        thesis.part_tiles(asked(tiles="synthetic:61", split="stain"), tmp_path / "split")


def results(name, right):
    """Of 40 tiles of two classes, the first `right` of each class called rightly."""
    truth = np.repeat([0, 1], 20)
    called = np.where(np.tile(np.arange(20), 2) < right, truth, 1 - truth)
    units = np.array([f"tile {i}" for i in range(40)])
    said = tuple(Predictions(one, TEST, None, units, truth, called, None) for one in report.EVALUATORS)
    scores = tuple(
        Score(one, TEST, report.METRIC, right / 20, right / 20 - 0.1, right / 20 + 0.1) for one in report.EVALUATORS
    )
    return Results(name, "patch", "classification", "label", ("a", "b"), said, scores)


def test_the_report_holds_every_encoder_against_the_start_and_against_colour(tmp_path):
    steps = {step: f"{thesis.MAIN}_{step}" for step in (0, 5, 10)}
    judged = {f"{thesis.MAIN}_{step}": results("x", right) for step, right in ((0, 11), (5, 11), (10, 19))}
    judged |= {report.HISTOGRAM: results("x", 12), report.WHITENED: results("x", 13)}
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "split.json").write_text(json.dumps({"words": "by patient"}))
    report.write_report(tmp_path, "Title", {report.OWN: judged}, steps, [(training(tmp_path), ["a.b=1"])], draws=50)
    page = (tmp_path / "thesis.md").read_text()
    start, same, end, colour, whitened = (line for line in page.splitlines() if line.startswith("| tiles"))
    assert "| continued_0 | 0.550 [0.450, 0.650] |  | -0.050 [" in start
    assert "| +0.000 [+0.000, +0.000], p 1 |" in same
    assert "| continued_10 | 0.950 [0.850, 1.050] | +0.400 [" in end and "| +0.350 [" in end
    assert "colour_histogram" in colour and report.WHITENED in whitened
    assert (
        ": 10 steps of 32 tiles in 2 minutes; `a.b=1`" in page
        and "| 5 | 0.8 | 90 | 0.9 | 0.5 | 0.6 | knn and rankme |" in page
    )
    assert (tmp_path / "thesis.png").stat().st_size > 10_000 and (tmp_path / "thesis.csv").exists()


def test_encoders_are_judged_on_the_test_and_further_sets_on_one_half(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(thesis, "_histojax", called.append)
    monkeypatch.setattr(thesis, "read_results", lambda folder: folder.name)
    encoders = [thesis.Encoder("a", "runs/a"), thesis.Encoder("b", "uni")]
    assert list(thesis.judge(asked(), tmp_path / "out", encoders, tmp_path)) == ["a", "b", report.HISTOGRAM]
    thesis.judge(asked(), tmp_path / "out", encoders, "idc.csv")
    own, other = (" ".join(words) for words in called)
    assert f"--train {tmp_path / 'fit.csv'} --test {tmp_path / 'test.csv'} " in own and "--draws 50" in own
    assert "--train idc.csv --test-share 0.5 " in other and "--encoder a=runs/a --encoder b=uni" in other


def training(folder):
    """The numbers of a training whose validation is best at step 5, while RankMe goes on growing without spread."""
    rows = []
    for step, knn, rankme, spread in ((0, 0.6, 80, 0.8), (5, 0.8, 90, 0.9), (10, 0.7, 99, 0.3)):
        rows.append({"step": step, "validation/knn_balanced_accuracy": knn, "rankme": rankme, "eval_spread": spread})
        rows[-1] |= {"test/knn_balanced_accuracy": 0.5, "test/ridge_balanced_accuracy": 0.6}
    for name, lines in (("metrics.jsonl", rows), ("timing.jsonl", [{"step": 10, "train_seconds": 118.0}])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text('{"config": {"batch_size": 32}}')
    return folder


def test_both_choices_are_told_and_rankme_without_spread_chooses_nothing(tmp_path):
    titles, rows = report.choices(training(tmp_path))
    assert titles[-1] == "chosen by" and [row[-1] for row in rows] == ["", "knn and rankme", ""]


def test_whitening_lets_small_directions_speak():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = rng.normal(size=(200, 6)) * [100, 50, 20, 1, 1, 1]
    features[:, 4] += 8 * labels  # what tells the classes apart is a hundredth of what varies
    spread = thesis.whitening(features)(features)
    np.testing.assert_allclose(np.linalg.norm(spread, axis=1), 6**0.5, rtol=1e-6)

    def right(x):
        distances = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag([np.inf] * 200)
        return (labels[distances.argmin(1)] == labels).mean()

    assert right(features) < 0.7 and right(spread) > 0.9


def test_tiles_with_other_features_keep_what_is_known_of_them(tmp_path):
    labels = np.array([1, 0, 1])
    tiles = PatchSet(np.zeros((3, 2), np.float32), labels, ("a", "b"), np.array(["x", "y", "z"]), np.array(["p"] * 3))
    thesis._write_arrays(tmp_path / "w.npz", tiles, np.eye(3))
    read = read_patches([tmp_path / "w.npz"])
    assert (
        read.classes == tiles.classes and read.names.tolist() == ["x", "y", "z"] and read.groups.tolist() == ["p"] * 3
    )
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(read.features, np.eye(3))


@pytest.mark.parametrize(
    "words",
    [
        ["--also", "idc"],
        ["--encoder", "=x"],
        ["--variant", "a/b"],
        ["--variant", thesis.MAIN],
        ["--variant", "a", "x=1", "--variant", "a"],
    ],
)
def test_bad_names_are_refused_before_anything_is_done(words, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["thesis.py", "--tiles", "synthetic:60", "--out", str(out), *words])
    assert thesis.main() == 2 and not out.exists()
    said = capsys.readouterr().err
    assert said.startswith(f"thesis: error: {words[0]} ") and said.count("\n") == 1


def test_all_settings_are_checked_before_the_first_training(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(thesis, "_histojax", lambda words: called.append(words) or _stop(called))
    words = ["--tiles", "synthetic:60", "--out", str(tmp_path), "--variant", "a", "x.y=1"]
    monkeypatch.setattr("sys.argv", ["thesis.py", *words])
    with pytest.raises(SystemExit):
        thesis.main()
    first, second = called
    assert first[-1] == second[-1] == "--check" and "--config.x.y=1" in second and "--config.x.y=1" not in first


def _stop(called):
    """As a command that fails the second time."""
    if len(called) == 2:
        raise SystemExit(2)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_is_between_none_and_all(share, tmp_path):
    with pytest.raises(UserError, match="test-share"):
        thesis.part_tiles(asked(split="stain", test_share=share), tmp_path / "split")
    assert not (tmp_path / "split").exists()


def test_further_tiles_of_unknown_patients_are_refused_beside_a_split_by_patient(tmp_path):
    folder = tmp_path / "more" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "x.png")
    with pytest.raises(UserError, match="of unknown patients or slides"):
        thesis.part_tiles(asked(more=[str(tmp_path / "more")]), tmp_path / "split")
    with pytest.raises(UserError, match="take --split stain"):
        thesis.part_tiles(asked(tiles=str(tmp_path / "more"), split="groups"), tmp_path / "split")
