"""Scores as tables."""

from __future__ import annotations

import math

from histojax.evaluation.results import Results, Score
from histojax.evaluation.score_table import in_lines, write_scores

RESULTS = Results(
    "mine",
    "patch",
    "classification",
    "label",
    ("a", "b"),
    (),
    (
        Score("knn", "test", "accuracy", 0.8, 0.7, 0.9),
        Score("knn", "test", "auroc", math.nan),
        Score("t", "CPTAC", "accuracy", 0.6, spread=0.05),
        Score("t", "CPTAC", "accuracy", 0.5, fold=0),
    ),
)


def test_a_line_an_evaluator_and_part():
    title, knn, head = in_lines(RESULTS, ("accuracy", "auroc", "kappa"))
    assert title.split() == ["accuracy", "auroc"]
    assert knn.split() == ["knn", "on", "test", "0.800", "[0.700,", "0.900]", "undefined"]
    assert head.split() == ["t", "on", "CPTAC", "0.600", "+-", "0.050"]


def test_every_score_is_a_row(tmp_path):
    write_scores(tmp_path / "s.csv", RESULTS)
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert (
        len(lines) == 5
        and lines[1] == "mine,knn,test,,accuracy,0.8,0.7,0.9,,"
        and lines[4].startswith("mine,t,CPTAC,0,")
    )
