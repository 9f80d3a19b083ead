"""Tables and lines beside published numbers: what is drawn, and where."""

import math

import pytest
from matplotlib.colors import to_hex

from histojax.report.paper_figure import Level, Line, draw_lines
from histojax.report.paper_tables import draw_table, markdown_table


def test_markdown_keeps_its_columns():
    assert markdown_table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n"


def test_every_text_of_a_table_lies_within_its_picture():
    notes = ["a note that is " + "long " * 60]
    figure = draw_table(["", "score\nours"], [["one", "0.9"], ["two", "hole"]], [["", "#ff0000"], ["", ""]], "T", notes)
    (ax,) = figure.axes
    places = [text.get_position() for text in ax.texts]
    assert {"one", "0.9", "two", "hole", "score\nours", "T"} <= {text.get_text() for text in ax.texts}
    assert all(0 <= y <= figure.get_figheight() and -0.2 <= x <= figure.get_figwidth() for x, y in places)
    assert [to_hex(patch.get_facecolor()) for patch in ax.patches] == ["#ff0000"]


def test_published_numbers_are_marks_with_their_tolerance():
    line = Line("kNN", [0, 10], [0.8, 0.9], [0.75, 0.85], [0.85, 0.95])
    bare = Line("linear", [], [], [], [])
    figure = draw_lines([line, bare], [Level("kNN", 10, 0.94, 0.02)], "title", ["a note"])
    (ax,) = figure.axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["kNN, ours", "kNN, published, and what agrees with it", "linear, ours"]
    (bars,) = [one for one in ax.containers if one.has_yerr]
    low, high = bars[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.92, 0.96)) and "a note" in ax.get_xlabel()
    without = draw_lines([Line("kNN", [0], [0.8], [math.nan], [math.nan])], [])
    assert len(without.axes[0].collections) == 0
