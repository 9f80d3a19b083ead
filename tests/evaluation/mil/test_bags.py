"""Bags: their lengths, the padding, reading ahead and drawing tiles."""

import mil_cases
import numpy as np
import pytest

from histojax.evaluation.mil.bags import Bag, Reader, bucket, one_ahead, padded


def test_lengths_are_few_and_little_longer_than_the_bags():
    lengths = np.array([bucket(n) for n in range(1, 20001)])
    assert (lengths >= np.arange(1, 20001)).all() and len(set(lengths)) == 40
    assert (lengths[1000:] / np.arange(1001, 20001)).max() < 1.13


def test_padding_says_what_is_there():
    x, mask = padded(np.ones((5, 3), np.float16))
    assert x.shape == (1, 15, 3) and x.dtype == np.float32 and mask.shape == (1, 15)
    assert mask.sum() == 5 and x[0, :5].all() and not x[0, 5:].any()


def test_bags_come_in_order_and_an_error_comes_out():
    def broken():
        raise KeyError("gone")

    jobs = [lambda i=i: np.full((i + 1, 2), i) for i in range(4)]
    assert [int(mask.sum()) for _, mask in one_ahead(jobs)] == [1, 2, 3, 4]
    with pytest.raises(KeyError, match="gone"):
        list(one_ahead([*jobs, broken]))


def test_a_reader_keeps_what_fits_and_draws_tiles_and_augmented_copies():
    calls = []
    x = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    bag = Bag("a", lambda: calls.append(1) or x, 8, lambda rng: x + 100)
    reader = Reader([bag, mil_cases.bag(x)], 3, budget=x.nbytes)
    rng = np.random.default_rng(0)
    assert [len(reader.load(0)), len(reader.load(0)), len(calls)] == [8, 8, 1]
    drawn = reader.draw(0, rng, 5, augmented=0)
    assert len(drawn) == 5 and len(np.unique(drawn[:, 0])) == 5 and drawn.max() < 24
    assert reader.draw(0, rng, 0, augmented=1).min() == 100
    assert len(reader.draw(1, rng, 20, augmented=1)) == 8
