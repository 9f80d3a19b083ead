"""Folds times models, killed and resumed, with external cohorts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from tiny_cohort import write_cohort

from histojax.common.errors import UserError
from histojax.common.locks import try_lock
from histojax.evaluation.cohort import read_cohort, read_means
from histojax.evaluation.cohort_tables import Question
from histojax.evaluation.folds import Fold
from histojax.evaluation.mil.settings import TrainSettings
from histojax.evaluation.results import Predictions
from histojax.evaluation.slide_folds import FoldRun, Judge, by_patient, standardised
from histojax.evaluation.slide_protocol import SlideSettings, at_half, choose_folds, evaluate_slides, results_of

STATUS = Question("status", classes=("nonMSIH", "MSIH"))
FAST = SlideSettings(("mean",), TrainSettings(epochs=2), draws=50)


def judge(root, question=STATUS, **more):
    found = read_cohort([root / "features"], root / "clini.csv", root / "slides.csv", question, **more)
    return Judge(*read_means(found))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return judge(write_cohort(tmp_path_factory.mktemp("own"), 20))


@pytest.fixture(scope="module")
def cptac(tmp_path_factory):
    return judge(write_cohort(tmp_path_factory.mktemp("cptac"), 8, seed=1, prefix="Q"))


def run(out, own, settings=FAST, folds="3", **more):
    return evaluate_slides(out, own, choose_folds(own.cohort, folds)[0], settings, **more)


def test_every_patient_is_tested_once_and_an_external_cohort_by_every_fold(tmp_path, own, cptac):
    heard = []
    found = run(tmp_path, own, external={"CPTAC": cptac}, tell=lambda *told: heard.append(told))
    tests = [one for one in found.predictions if one.part == "test"]
    assert sorted(np.concatenate([one.units for one in tests])) == sorted(own.cohort.units.tolist())
    assert [one.fold for one in found.predictions if one.part == "CPTAC"] == [0, 1, 2]
    score, folds = found.score("mean", "auroc"), [s for s in found.scores if s.metric == "auroc" and s.part == "test"]
    alone = [one.value for one in folds if one.fold is not None]
    assert score.value == pytest.approx(np.mean(alone)) and score.spread == pytest.approx(np.std(alone))
    assert score.value > 0.9 and found.score("mean", "sensitivity", "CPTAC").value > 0.5
    assert heard[-1][0] == "mean-fold2" and heard[-1][1] == heard[-1][2]
    assert json.loads((tmp_path / "folds.json").read_text())["patients_sha256"] == own.cohort.sha256
    assert found.facts["training"]["mean"][0]["C"] > 0


def test_it_goes_on_where_it_was_killed_and_gives_the_same(tmp_path, own, cptac, monkeypatch):
    straight = run(tmp_path / "a", own, external={"CPTAC": cptac})
    fitted = []
    fit = FoldRun._fit

    def dying(self, progress):
        fitted.append(self.name)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return fit(self, progress)

    monkeypatch.setattr(FoldRun, "_fit", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", own)
    again = run(tmp_path / "b", own)
    assert fitted == ["mean-fold0", "mean-fold1", "mean-fold1", "mean-fold2"]
    more = run(tmp_path / "b", own, external={"CPTAC": cptac})  # a cohort that is new: heads are asked, not trained
    assert len(fitted) == 4 and len(again.predictions) == 3 and len(more.predictions) == 6
    for one in straight.predictions:
        (other,) = (p for p in more.predictions if (p.part, p.fold) == (one.part, one.fold))
        assert np.array_equal(one.probabilities, other.probabilities) and np.array_equal(one.units, other.units)


def test_a_folder_of_other_settings_is_refused(tmp_path, own, cptac):
    run(tmp_path, own)
    with pytest.raises(UserError, match=r"training.epochs is 2 there and 3 now"):
        run(tmp_path, own, SlideSettings(("mean",), TrainSettings(epochs=3)))
    with pytest.raises(UserError, match="bags_sha256"):
        run(tmp_path, cptac, folds="3")


def test_centres_of_the_table_are_judged_beside_the_accuracy(own):
    found = results_of(own, FAST, [], {}).facts["robustness"]
    assert set(found["centres"]) == {"s0", "s1", "s2"} and found["k"] == 2 and found["index"] > 0.5
    for centres in (None, np.full(len(own.cohort.units), "A")):
        other = replace(own, cohort=replace(own.cohort, centres=centres))
        assert "robustness" not in results_of(other, FAST, [], {}).facts


def test_slides_of_a_patient_are_averaged(tmp_path):
    own = judge(write_cohort(tmp_path, 12), choice="each")
    found = run(tmp_path / "out", own)
    parts = {one.part for one in found.predictions}
    assert parts == {"test", "test slides"}
    assert sum(len(one.units) for one in found.predictions if one.part == "test") == 12
    slides = Predictions("m", "x", 0, np.array(["a", "b", "c"]), np.array([1, 1, 0]), np.array([1, 0, 1]),
                         np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7]]), np.array(["P", "P", "Q"]))  # fmt: skip
    one = by_patient(slides, "test")
    assert one.units.tolist() == ["P", "Q"] and one.predicted.tolist() == [0, 1] and one.truth.tolist() == [1, 0]
    np.testing.assert_allclose(one.probabilities, [[0.55, 0.45], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("question", "metric"),
    [(Question("age", "regression"), "r2"), (Question("time", "survival", "event"), "concordance")],
)
def test_numbers_and_survival(tmp_path, question, metric):
    own = judge(write_cohort(tmp_path, 20), question)
    found = run(tmp_path / "out", own, folds="2")
    assert math.isfinite(found.score("mean", metric).value)
    events = found.predictions[0].events
    assert (events is None) == (question.task == "regression")


def test_several_classes(tmp_path):
    own = judge(write_cohort(tmp_path, 18), Question("site"))
    found = run(tmp_path / "out", own, folds="3")
    assert found.classes == ("s0", "s1", "s2") and found.predictions[0].probabilities.shape == (6, 3)
    assert 0 <= found.score("mean", "auroc").value <= 1 and found.score("mean", "sensitivity") is None


def test_trained_heads_answer_in_the_units_of_the_table(tmp_path):
    own = judge(write_cohort(tmp_path, 12), Question("age", "regression"))
    settings = SlideSettings(("attention",), TrainSettings(epochs=1), draws=0)
    found = run(tmp_path / "out", own, settings, "2")
    assert all((one.predicted > 35).all() and (one.predicted < 60).all() for one in found.predictions)
    targets, (mean, deviation) = standardised(np.array([1.0, 3, 100]), np.array([0, 1]))
    assert targets.tolist() == [-1, 1, 98] and (mean, deviation) == (2, 1)


def test_a_validation_part_of_one_class_has_no_auroc(tmp_path, own):
    names = own.cohort.patients.tolist()
    fold = Fold(tuple(names[:10]), ("P10", "P12"), tuple(names[13:]))
    settings = SlideSettings(("attention",), TrainSettings(epochs=1, keep="auroc"), draws=0)
    found = evaluate_slides(tmp_path, own, [fold], settings)
    assert len(found.facts["curves"]["attention: validation loss"]["fold 0"]) == 1
    assert 0 <= found.facts["robustness"]["centre_accuracy"] <= 1


def test_scores_at_half_are_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth, called = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    one = Predictions("m", "test", 0, np.arange(40).astype(str), truth, called)
    found = {score.metric: score.value for score in at_half([one], ("a", "b")) if score.fold is None}
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(truth, called))
    assert found["specificity"] == pytest.approx(metrics.recall_score(truth, called, pos_label=0))
    assert found["precision"] == pytest.approx(metrics.precision_score(truth, called))
    assert found["positive_f1"] == pytest.approx(metrics.f1_score(truth, called))
    assert at_half([one], ("a", "b", "c")) == []


def test_names_and_models_that_cannot_be(tmp_path, own, cptac):
    for models in (("mean", "mean"), (), ("mlp",)):
        with pytest.raises(UserError, match="model"):
            SlideSettings(models)
    with pytest.raises(UserError, match="a name of its own"):
        run(tmp_path, own, external={"test": cptac})


def test_a_fold_that_another_process_is_at_is_waited_for_and_not_trained_again(tmp_path, own, monkeypatch):
    straight = run(tmp_path / "a", own)
    out, theirs = tmp_path / "b", []
    fit = FoldRun._fit

    def busy(self, progress):  # while the first fold is trained here, another process takes the second one
        if self.number == 0:
            theirs.append(try_lock(out / "folds" / ".mean-fold1.lock"))
        elif self.number == 2:
            theirs.pop().release()
        return fit(self, progress)

    monkeypatch.setattr(FoldRun, "_fit", busy)
    heard = []
    found = run(out, own, tell=lambda *told: heard.append(told[0]))
    assert list(dict.fromkeys(heard)) == ["mean-fold0", "mean-fold2", "mean-fold1"]
    assert [score.value for score in found.scores] == [score.value for score in straight.scores]
