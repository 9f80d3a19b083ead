"""The paper's rows are whole, name encoders that exist, and are judged by the stated tolerances."""

import math

import pytest

from histojax.evaluation.paper.cells import ABOVE, AGREES, BELOW, HOLE, NO_NUMBER, NOT_COMPARED, Cell, verdict
from histojax.evaluation.paper.numbers import FIGURE_2, PATCH, RELEASED, ROWS, SLIDE, encoder_of, reported
from histojax.evaluation.paper.published import NCT_LINEAR
from histojax.zoo.table import ENCODERS


@pytest.mark.parametrize("protocol", ["patch", "slide"])
def test_every_row_has_a_number_in_each_column_and_an_encoder(protocol):
    _, columns, rows = reported(protocol)
    assert tuple(rows) == ROWS and len(ROWS) == 12
    for row, numbers in rows.items():
        assert len(numbers) == len(columns) and all(0.5 <= number <= 1 for number in numbers)
        assert ENCODERS[encoder_of(row, protocol)].paper_row == row


def test_numbers_that_the_text_of_the_paper_is_about():
    assert PATCH["DINOv2 ViT-S"][0] == 0.88 and PATCH["DINOv2 ViT-S finetuned"][0] == 0.94
    assert SLIDE["DINOv2 ViT-S finetuned"] == (0.89, 0.85) and SLIDE["CTransPath"] == (0.85, 0.82)
    for row, (knn, linear) in RELEASED.items():  # the table has these, rounded
        assert abs(PATCH[row][0] - knn) <= 0.005 and abs(PATCH[row][2] - linear) <= 0.005
    assert all(curve.before in PATCH and curve.row in PATCH for curve in FIGURE_2)


def test_others_report_encoders_of_the_table():
    assert {name for _, name, _, _ in NCT_LINEAR if name} <= set(ENCODERS)
    assert all(0.7 < number < 1 for *_, number in NCT_LINEAR)


@pytest.mark.parametrize(
    ("paper", "ours", "another", "expected"),
    [
        (0.88, 0.8851, "", AGREES),
        (0.88, 0.89, "", AGREES),
        (0.88, 0.8951, "", ABOVE),
        (0.88, 0.8649, "", BELOW),
        (0.88, math.nan, "", HOLE),
        (None, 0.5, "", NO_NUMBER),
        (0.88, 0.88, "other tiles", NOT_COMPARED),
    ],
)
def test_a_verdict(paper, ours, another, expected):
    assert verdict(paper, ours, 0.01, another)[0] == expected


def test_a_cell_is_shown_with_its_interval_or_its_spread():
    assert Cell("a", "b", 0.9).shown() == "hole"
    assert Cell("a", "b", 0.9, 0.8756, 0.861, 0.889).shown() == "0.876 (0.861-0.889)"
    assert Cell("a", "b", 0.9, 0.8756, spread=0.05).shown() == "0.876 ± 0.050"
