"""Figures are drawn for the odd cases, too, and say what the numbers say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from histojax.report import figures
from histojax.report.figures import Bar, Curve


def opened(drawn: figures.Drawn) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))
    assert image.shape[1] == pytest.approx(drawn.width * figures.SHARP, abs=2)
    assert image.std() > 5
    return image


def test_kaplan_meier_equals_a_worked_example():
    """Times 1, 2+, 3, 3, 5+: 4/5, then 4/5 * 1/3."""
    times, share = figures.kaplan_meier(np.array([3.0, 1, 2, 5, 3]), np.array([1, 1, 0, 0, 1]))
    np.testing.assert_allclose(times, [0, 1, 2, 3, 5])
    np.testing.assert_allclose(share, [1, 0.8, 0.8, 0.8 / 3, 0.8 / 3])


def test_wilson_holds_at_the_ends():
    low, high = figures._wilson(np.array([0.0, 8]), np.array([10.0, 10]))
    np.testing.assert_allclose([low[1], high[1]], [0.4902, 0.9433], atol=2e-4)
    assert abs(low[0]) < 1e-12 and high[0] == pytest.approx(0.2775, abs=1e-3)


@pytest.mark.parametrize("count", [1, 13])
def test_any_number_of_classes_is_drawn(count):
    rng = np.random.default_rng(0)
    names = [f"class {'long ' * 8}$x_{i}$" for i in range(count)]
    opened(figures.confusion_figure(rng.integers(0, 9, (count, count)), names, "t"))
    opened(figures.scatter_figure(rng.normal(size=(99, 2)), rng.integers(0, count, 99), names, "t", ("x", "y")))


def test_lines_bars_and_numbers_are_drawn():
    rng = np.random.default_rng(0)
    x = np.array([1.0, 2, 4])
    opened(figures.roc_figure([Curve(x / 4, x / 4, "a"), Curve(x / 4, x / 5, "", 1, faint=True)]))
    opened(
        figures.lines_figure([Curve(x, x, "a"), Curve(x, np.array([1, np.nan, 2]), "b", 1)], "shots", "", log_x=True)
    )
    opened(figures.bars_figure([Bar("a", 0.5, 0.4, 0.6), Bar("b", 0.7)], "t", chance=0.5))
    opened(figures.calibration_figure(rng.uniform(size=20), rng.uniform(size=20) > 0.5))
    opened(figures.agreement_figure(np.ones(4), np.ones(4)))
    alive = np.array([True, False, True])
    opened(figures.survival_figure(x, np.array([1, 0, 1]), [("a", alive), ("b", ~alive), ("none", np.zeros(3, bool))]))
