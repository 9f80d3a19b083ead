"""Table 1 from cohorts on disk: plan, scores of every fold on both cohorts, holes where a cohort is missing."""

import dataclasses

import pytest
from tiny_cohort import write_cohort

from histojax.common.errors import UserError
from histojax.evaluation.paper import slide_scores
from histojax.evaluation.paper.datasets import MISSING, OTHER
from histojax.evaluation.paper.plan import make_plan, told
from histojax.evaluation.paper.settings import Benchmark, Cohort, Row
from histojax.evaluation.paper.tables import score_table

ROW = Row("mine", "dinov2_vits14")


def cohort(root, *args, **more):
    root = write_cohort(root, *args, **more)
    (root / "features").rename(root / "features_mine")
    return Cohort("", str(root), str(root / "clini.csv"), str(root / "slides.csv"))


@pytest.fixture
def asked(tmp_path):
    both = (cohort(tmp_path / "own"), cohort(tmp_path / "other", 8, seed=1, prefix="Q"))
    more = {"target": "status", "classes": ("nonMSIH", "MSIH"), "draws": 20, "epochs": 1}
    return Benchmark("msi", "slide", (ROW,), internal=both[0], external=both[1], **more)


def scores(asked, out, monkeypatch):
    monkeypatch.setattr(slide_scores, "MODEL", "mean")  # a transformer takes seconds to compile
    where = {part: one.where for part, one in make_plan(asked).data.items()}
    return slide_scores.score(ROW, asked, where, out, lambda text: None)


def test_both_cohorts_are_judged_by_five_folds(asked, tmp_path, monkeypatch):
    found = scores(asked, tmp_path / "out", monkeypatch)
    assert [one.fold for one in found.predictions if one.part == "cptac"] == [0, 1, 2, 3, 4]
    assert 0.7 < found.score("mean", "auroc", "cptac").value <= 1 and found.score("mean", "auroc").spread >= 0
    assert found.facts["leakage"] and "first slide" in found.facts["settings"]["slides"]


def test_a_cohort_of_other_patients_is_not_compared(asked):
    plan = make_plan(asked)
    assert [one.state for one in plan.data.values()] == [OTHER, OTHER] and plan.whole
    assert plan.data["cohort"].patients == {"nonMSIH": 10, "MSIH": 10}
    text = told(asked, plan)
    assert (
        "20 patients have a label, the paper had 632" in text
        and "other patients than the paper's (cohort and external)" in text
    )


def test_without_the_external_cohort_its_column_is_a_hole(asked, tmp_path, monkeypatch):
    alone = dataclasses.replace(asked, external=Cohort())
    plan = make_plan(alone)
    assert plan.data["external"].state == MISSING and not plan.lacking and not plan.whole
    found = scores(alone, tmp_path / "out", monkeypatch)
    table = score_table("slide", (ROW,), {"mine": found}, plan.another, plan.no_part)
    assert "110 patients in the paper" in table.cell("mine", "CPTAC AUROC").why


def test_patients_of_both_cohorts_are_a_leak(asked, tmp_path, monkeypatch):
    leaky = dataclasses.replace(asked, external=asked.internal)
    with pytest.raises(UserError, match=r"config\.allow_leaks=true"):
        scores(leaky, tmp_path / "out", monkeypatch)


def test_features_of_another_encoder_do_not_serve(asked, tmp_path):
    where = {"cohort": "", "external": ""}
    with pytest.raises(UserError, match="no folder features_yours"):
        slide_scores.score(dataclasses.replace(ROW, name="yours"), asked, where, tmp_path, print)
