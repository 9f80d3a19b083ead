"""The report of an evaluation: everything that results hold is in one file, which a browser shows without complaint."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from histojax.evaluation.results import Predictions, Results, Score
from histojax.evaluation.results_page import Pictures, write_report

CLASSES = ("ADI", "TUM <b>")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def spoken(name: str, seed: int, fold: int | None = None, classes: int = 2, part: str = "test") -> Predictions:
    rng = np.random.default_rng(seed)
    shares, truth = rng.dirichlet(np.ones(classes), 40), np.arange(40) % classes
    units = np.array([f"tile {i}" for i in range(40)])
    return Predictions(name, part, fold, units, truth, shares.argmax(1), shares, units)


def results(**changed) -> Results:
    scores = (
        Score("logistic", "test", "balanced_accuracy", 0.91, 0.88, 0.94, how="bootstrap of 40 tiles"),
        Score("knn", "test", "balanced_accuracy", 0.85),
        Score("knn", "test", "ece", math.nan),
        Score("knn", "test", "auroc", 0.9, spread=0.01, fold=0),
    )
    facts = {
        "notes": ["tiles are drawn"],
        "leakage": {
            "sentences": ["test shares 2 slides with training (a, b)", "patients are not known"],
            "shared": [{"kind": "slide", "part": "training", "other": "test", "count": 2}],
        },
        "features": {"encoder": "dinov2_vits14", "tile_px": 224, "licences": [{"what": "x", "licence": "Apache-2.0"}]},
        "few_shot": [{"shots": 1, "mean": 0.5}, {"shots": 2, "mean": 0.6}],
        "curves": {"loss": {"fold 0": [[1, 0.5], [2, None]]}},
        "retrieval": {"top1": 0.9},
        "split": "held out",
        "command": ["histojax", "a b"],
        "settings": {"k": 20, "nested": {"deep": [1, 2]}},
    }
    spoke = (spoken("knn", 0), spoken("logistic", 1))
    made = Results("dinov2_vits14", "patch", "classification", "label", CLASSES, spoke, scores, facts)
    return dataclasses.replace(made, **changed)


def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    units = np.array([f"tile {i}" for i in range(40)])
    near = rng.integers(0, 40, (40, 3))
    labels, centres = np.arange(40) % 2, np.array(["x", "y"] * 20)
    return Pictures(
        *(rng.normal(size=(40, 5)), units, labels, CLASSES, centres, near, labels),
        tile=lambda part, row: None if row == 3 else tiles[row],
    )


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of half the size, which takes a quarter of the time."""
    monkeypatch.setattr("histojax.report.figures.SHARP", 0.5)


def test_everything_that_results_hold_is_shown(tmp_path):
    path = write_report(tmp_path / "new", results(), pictures())
    text = path.read_text(encoding="utf-8")
    titles = re.findall("<h2>(.*?)</h2>", text)
    wanted = "To know first|Scores|ROC|Confusion|Calibration|Few-shot|Retrieval|Features|Nearest neighbours"
    assert titles == [*wanted.split("|"), "Worst mistakes", "Curves", "From slides to score", "Settings"]
    for words in (
        "0.910 [0.880, 0.940]",
        "shares 2 slides with training (a, b)",
        "patients are not known",
        "Apache-2.0",
        "TUM &lt;b&gt;",
    ):
        assert words in text
    assert "<b>0" not in text and text.index("shares 2 slides with training (a, b)") < text.index("0.910")
    assert text.count("data:image/jpeg") == 3 and text.count("data:image/png") >= 9


@pytest.mark.parametrize("facts", [{}, {"features": {"train": {"encoder": "a"}, "test": {"encoder": "a"}}, "odd": 3}])
def test_results_with_little_in_them_have_a_report(tmp_path, facts):
    write_report(tmp_path, results(predictions=(), scores=(), facts=facts, classes=()))
    bare = dataclasses.replace(spoken("mean", 0), probabilities=None)
    write_report(tmp_path, results(predictions=(bare,), scores=(), facts=facts))


def test_folds_and_cohorts_have_their_own_figures(tmp_path):
    spoke = tuple(spoken("transformer", i, i, 3, part) for part in ("test", "CPTAC") for i in range(3))
    scores = (Score("transformer", "CPTAC", "auroc", 0.8, 0.7, 0.9, 0.02),)
    made = results(predictions=spoke, classes=("a", "b", "c"), scores=scores, protocol="slide", target="MSI")
    text = write_report(tmp_path, made).read_text()
    assert "ROC: CPTAC" in text and "summed over 3 folds" in text and "0.800 ± 0.020 [0.700, 0.900]" in text


def test_the_training_run_is_shown_with_its_curves_and_configuration(tmp_path):
    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.json").write_text('{"config": {"name": "tiny", "optim": {"lr": 0.001}}}')
    (run / "provenance.json").write_text('{"starts": [{"start_time": "2026-11-28"}]}')
    Image.new("RGB", (8, 8)).save(run / "curves.png")
    made = results(predictions=(), facts={"command": ["--encoder", str(run)]})
    text = write_report(tmp_path / "out", made).read_text()
    for words in ("<b>Training run</b>", "2026-11-28", "the weights: mine.", "<dt>Lr</dt><dd>0.001</dd>"):
        assert words in text


def test_survival_and_regression_have_reports(tmp_path):
    rng = np.random.default_rng(0)
    units, times, risks = np.arange(9).astype(str), rng.uniform(1, 9, 9), rng.normal(size=9)
    one = Predictions("t", "test", 0, units, times, risks, events=np.arange(9) % 2)
    text = write_report(tmp_path, results(task="survival", predictions=(one,), scores=(), classes=())).read_text()
    assert "Kaplan-Meier" in text
    one = dataclasses.replace(one, events=None)
    text = write_report(tmp_path, results(task="regression", predictions=(one,), scores=(), classes=())).read_text()
    assert "Agreement" in text


def test_a_browser_shows_it_without_complaint(tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)}), so the report is not looked at in one")
    path = write_report(tmp_path, results(), pictures())
    shot, flags = tmp_path / "seen.png", "--headless --no-sandbox --disable-gpu --hide-scrollbars"
    more = "--enable-logging=stderr --window-size=1240,4400 --force-device-scale-factor=0.5"
    words = [browser, *flags.split(), *more.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    done = subprocess.run([*words, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr  # the browser's complaints: pictures or styles that it refused
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    frames = {"green": (0, 140, 90), "red": (205, 40, 30)}
    assert all((abs(seen - colour).max(-1) < 30).sum() > 500 for colour in frames.values())
    assert (abs(seen - (255, 244, 224)).max(-1) < 4).sum() > 1000  # the warning's ground: the style is in force
