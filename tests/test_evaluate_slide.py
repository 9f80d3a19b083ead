"""`histojax evaluate slide` through its real entry point: tables and features in, scores and heads out."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from tiny_cohort import WIDTH, write_bag, write_cohort

from histojax import evaluate
from histojax.evaluation import slide_command, slide_output
from histojax.evaluation.results import read_results
from histojax.evaluation.results_page import write_report


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("own"), 20)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Figures take seconds and have tests of their own: they are drawn once here."""
    monkeypatch.setattr(slide_output, "write_report", lambda *_: None)


def command(root, out, *more, target="status", clini="clini.csv"):
    where = ["--features", root / "features", "--clini", root / clini, "--slides", root / "slides.csv"]
    return evaluate.main(["slide", *map(str, where), "--target", target, "--out", str(out), "--draws", "20", *more])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_from_tables_to_a_report_and_on_to_a_new_cohort(root, tmp_path, capsys, monkeypatch):
    new = write_cohort(tmp_path / "new", 8, seed=1, prefix="Q")
    flags = ["--classes", "nonMSIH,MSIH", "--models", "mean", "--folds", "3"]
    external = ["--external", "CPTAC", *(str(new / name) for name in ("features", "clini.csv", "slides.csv"))]
    with monkeypatch.context() as patched:
        patched.setattr(slide_output, "write_report", write_report)
        assert command(root, tmp_path / "out", *flags, *external) == 0
    text = capsys.readouterr()
    assert "mean on test" in text.out and "mean on CPTAC" in text.out and "20 patients (nonMSIH: 10" in text.err
    found = read_results(tmp_path / "out")
    assert found.score("mean", "auroc").value > 0.9 and not found.facts["leakage"].get("shared")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scores.csv", "report.html", "folds.json", "heads", "patient-preds", "settings.json"} <= names
    rows = table(tmp_path / "out/patient-preds/mean/split-0/patient-preds.csv")
    assert list(rows[0]) == ["PATIENT", "status", "pred", "status_nonMSIH", "status_MSIH", "loss"]
    assert [float(row["loss"]) for row in rows] == sorted(float(row["loss"]) for row in rows)
    mean = {row["PATIENT"]: row for row in table(tmp_path / "out/patient-preds/mean/CPTAC/patient-preds.csv")}

    apply = ["slide", "--apply", str(tmp_path / "out"), "--features", str(new / "features"), "--draws", "0"]
    slides = ["--slides", str(new / "slides.csv")]
    assert evaluate.main([*apply, *slides, "--out", str(tmp_path / "blind")]) == 0
    blind = {row["PATIENT"]: row for row in table(tmp_path / "blind/patient-preds/mean/patient-preds.csv")}
    assert set(blind) == set(mean) and "status" not in blind["Q00"]
    assert all(float(blind[name]["status_MSIH"]) == float(mean[name]["status_MSIH"]) for name in mean)
    judged = [*apply, *slides, "--clini", str(new / "clini.csv"), "--out", str(tmp_path / "judged")]
    assert evaluate.main(judged) == 0
    assert read_results(tmp_path / "judged").score("mean", "auroc").value == found.score("mean", "auroc", "CPTAC").value
    one = ["slide", "--apply", str(tmp_path / "out/heads/mean-fold1.safetensors"), *judged[3:-1], str(tmp_path / "one")]
    assert evaluate.main(one) == 0 and read_results(tmp_path / "one").predictions[0].fold == 1


def test_a_transformer_is_trained(root, tmp_path, capsys):
    folds = {"folds": [{"train": [f"P{i:02d}" for i in range(12)], "test": [f"P{i:02d}" for i in range(12, 20)]}]}
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    flags = ["--folds", str(tmp_path / "folds.json"), "--models", "attention", "--epochs", "2", "--max-tiles", "8"]
    assert command(root, tmp_path / "out", *flags) == 0
    found = read_results(tmp_path / "out")
    assert len(found.predictions[0].units) == 8 and any("no validation part" in note for note in found.facts["notes"])
    assert list(found.facts["curves"]) == ["attention: validation loss"]
    assert "step 18/18" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--folds", "30"], "only 10 of class MSIH: 30 folds need 30"),
        (["--folds", "none.json"], "no fold file"),
        (["--models", "mlp"], "no model of bags is called 'mlp'"),
        (["--label-map", "a"], "expected VALUE=CLASS"),
        (["--classes", "MSIH,other"], "no patient is other"),
        (["--external", "CPTAC", "x"], "expected NAME FEATURES CLINI [SLIDES]"),
        (["--event", "event"], "status of P00 is 'nonMSIH', expected a time"),
        (["--task", "regression"], "expected a number for --task regression"),
        (["--epoch", "2"], "did you mean --epochs"),
        (["--draws", "-1"], "--draws: expected a whole number"),
        (["--ssl", "nowhere"], "nowhere"),
    ],
)
def test_bad_flags_are_one_line(root, tmp_path, capsys, flags, said):
    assert command(root, tmp_path / "out", "--models", "mean", *flags) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("histojax evaluate slide: error: ") and said in line
    assert not (tmp_path / "out").exists()


def test_bad_cohorts_are_one_line(tmp_path, capsys):
    root = write_cohort(tmp_path, 3)
    assert command(root, tmp_path / "out") == 2
    assert "3 patients, but only 1 of class MSIH" in capsys.readouterr().err
    write_bag(root / "features" / "P01a.h5", np.full((2, WIDTH), np.nan))
    assert command(root, tmp_path / "out") == 2
    assert "not finite" in capsys.readouterr().err
    assert command(root, tmp_path / "out", target="stat") == 2
    assert "did you mean status?" in capsys.readouterr().err
    assert evaluate.main(["slide", "--features", "x", "--out", "y"]) == 2
    assert "--clini is missing" in capsys.readouterr().err
    assert evaluate.main(["slide", "--help"]) == 0 and "--slide-choice" in capsys.readouterr().out


def test_patients_that_an_external_cohort_shares_are_refused(root, tmp_path, capsys):
    same = ["--external", "CPTAC", *(str(root / name) for name in ("features", "clini.csv", "slides.csv"))]
    assert command(root, tmp_path / "out", "--models", "mean", *same) == 2
    assert "leakage: CPTAC shares 20 patients with training" in capsys.readouterr().err
    (tmp_path / "seen.txt").write_text("P03\nP04\n")
    assert command(root, tmp_path / "out", "--models", "mean", "--ssl", str(tmp_path / "seen.txt")) == 2
    assert "test shares 2 patients" in capsys.readouterr().err


def test_other_processes_make_the_same_evaluation_meanwhile(root, tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, command, **_):
            started.append(command)

        def wait(self):
            started.append("waited")

        def terminate(self):
            started.append("terminated")

    monkeypatch.setattr(slide_command.subprocess, "Popen", Process)
    flags = ("--models", "mean", "--folds", "3", "--at-once", "2")
    assert command(root, tmp_path / "out", *flags) == 0
    assert not {"--at-once", "2"} & set(started[0]) and str(tmp_path / "out") in started[0]
    assert started[1:] == ["waited"]
    started.clear()
    assert command(root, tmp_path / "out", *flags, "--epochs", "3") == 2  # another evaluation lies there
    assert started[1:] == ["terminated", "waited"]
