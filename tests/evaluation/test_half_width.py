import numpy as np
import pytest

from histojax.evaluation.half_width import half_width

LABELS = np.repeat([0, 1], 200)


def calls(share, seed=0):
    """Calls of which each is right with this probability."""
    right = np.random.default_rng(seed).random(len(LABELS)) < share
    return np.where(right, LABELS, 1 - LABELS)


def test_it_is_that_of_the_binomial_where_tiles_are_drawn():
    expected = 1.96 * np.sqrt(0.7 * 0.3 / 200 / 2)  # of the mean of two independent shares of 200 each
    assert half_width(LABELS, calls(0.7)) == pytest.approx(expected, rel=0.15)
    assert half_width(LABELS, LABELS) == 0


def test_few_tiles_leave_it_wide_and_the_same_each_time():
    few = np.arange(0, 400, 20)
    assert half_width(LABELS[few], calls(0.7)[few]) > 0.1
    assert half_width(LABELS, calls(0.7)) == half_width(LABELS, calls(0.7))


def test_tiles_of_a_patient_are_no_independent_witnesses():
    patients = np.array([f"p{i}" for i in range(8)])[np.arange(400) % 8]
    called = np.where((np.arange(400) % 8 < 6), LABELS, 1 - LABELS)  # two of eight patients are called wrong
    assert half_width(LABELS, called, patients) > 4 * half_width(LABELS, called)
    unknown = np.full(400, "")
    assert half_width(LABELS, called, unknown) == half_width(LABELS, called)
    assert half_width(LABELS, called, np.full(400, "p1")) is None  # one patient: nothing can be drawn
