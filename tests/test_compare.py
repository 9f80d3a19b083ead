"""The command from results folders to tables and picture, and what it refuses."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from histojax.compare import main
from histojax.evaluation.results import Predictions, Results, read_results, write_results


def write_run(folder, name, skill, units=90, folds=0, target="label"):
    parts = []
    for fold in range(max(folds, 1)):
        rng = np.random.default_rng([fold, int(10 * skill)])
        truth = np.arange(units) % 3
        shares = np.exp(rng.normal(size=(units, 3)) + skill * np.eye(3)[truth])
        shares /= shares.sum(axis=1, keepdims=True)
        names = np.array([f"{fold}-{i}" for i in range(units)])
        parts.append(Predictions("knn", "test", fold if folds else None, names, truth, shares.argmax(axis=1), shares))
    folder.mkdir(parents=True)
    write_results(folder, Results(name, "patch", "classification", target, ("A", "B|b", "C"), tuple(parts), ()))
    return str(folder)


def test_from_folders_to_tables(tmp_path, capsys):
    for name, skill in (("good", 2.5), ("bad", 0.2), ("worse", 0.1)):
        write_run(tmp_path / "runs" / name, name, skill)
    assert main([str(tmp_path / "runs"), "--draws", "100", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "patch, label (3 classes): knn, test, balanced_accuracy (90 units)" in printed
    assert "good is better" in printed and "no difference can be claimed" in printed
    with open(tmp_path / "out" / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} >= {"auroc", "accuracy", "kappa", "log_loss"}
    main_rows = [row for row in rows if row["main"] == "1"]
    assert len(main_rows) == 3 and {row["better"] for row in main_rows} == {"good", ""}
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert page.count("## patch, label") == len(rows) / 3 and "| good |" in page
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000


def test_folds_and_a_chosen_metric(tmp_path, capsys):
    folders = [write_run(tmp_path / name, name, 1.0, 30, 5) for name in ("a", "b")]
    assert main([*folders, "--metric", "balanced_accuracy", "--draws", "100", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "balanced_accuracy (5 folds, 150 units)" in printed and "folds p" in printed and "sd 0." in printed


def test_evaluators_of_one_run(tmp_path, capsys):
    for name, skill in (("good", 2.5), ("bad", 0.1)):
        write_run(tmp_path / name, name, skill)
    good, bad = (read_results(tmp_path / name) for name in ("good", "bad"))
    mean = replace(bad.predictions[0], evaluator="mean")
    (tmp_path / "both").mkdir()
    write_results(tmp_path / "both", replace(good, name="vit", predictions=(*good.predictions, mean)))
    assert main([str(tmp_path / "both"), "--evaluators", "--draws", "100", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "vit, test, balanced_accuracy" in printed and "knn - mean: +0." in printed and "knn is better" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "one run alone"),
        (["{a}", "{a}"], "given twice"),
        (["{a}", "{other}"], "other target (label, not grade)"),
        (["{a}", "{b}", "--metric", "f2"], "metric f2"),
        (["{a}", "{b}", "--draws", "3"], "--draws 3"),
        (["{a}", "{b}", "--level", "95"], "--level 95"),
        (["{a}/nothing"], "no such folder"),
        (["{a}/.."], "other target"),
        (["{empty}"], "no folder of results"),
        (["{a}", "{b}", "--metrics", "auroc"], "did you mean --metric"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    places = {name: write_run(tmp_path / "runs" / name, name, 1.0, 12) for name in ("a", "b")}
    places["other"] = write_run(tmp_path / "runs" / "c", "c", 1.0, 12, target="grade")
    (tmp_path / "empty").mkdir()
    places["empty"] = str(tmp_path / "empty")
    assert main([text.format(**places) for text in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "comparison").exists()


def test_help_and_no_argument(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    assert "Nadeau" in capsys.readouterr().out
