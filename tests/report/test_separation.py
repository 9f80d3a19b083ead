"""A panel a table, models from the best on, a bar over those that could not be told apart."""

from __future__ import annotations

from histojax.report.separation import Panel, separation_figure


def test_models_intervals_and_bars():
    panel = Panel("t", "balanced_accuracy", ["a", "b", "c"], [0.9, 0.8, 0.5], [0.8, 0.7, 0.4], [1, 0.9, 0.6], [(0, 1)])
    first, second = separation_figure([panel, panel], "note").axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["a", "b", "c"] and first.yaxis_inverted()
    bars = [line for line in second.lines if not line.get_clip_on()]
    assert [list(bar.get_ydata()) for bar in bars] == [[-0.3, 1.3]]
    assert second.get_xlabel() == "balanced accuracy"
