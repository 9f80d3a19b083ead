"""Tokens as colours: what is alike has one colour, everywhere in a picture."""

from __future__ import annotations

import numpy as np

from histojax.report.token_colours import beside, mosaic, token_colours


def test_three_kinds_of_tokens_have_three_colours():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (2, 4, 4))
    tokens = np.eye(3, 8)[kinds] * [5, 4, 3, 1, 1, 1, 1, 1] + 1e-3 * rng.normal(size=(2, 4, 4, 8))
    colours, variance = token_colours(tokens)
    assert colours.shape == (2, 4, 4, 3) and variance[:2].sum() > 0.99
    means = np.stack([colours[kinds == k].mean(0) for k in range(3)])
    assert all(abs(colours[kinds == k][:, :2] - means[k, :2]).max() < 6 for k in range(3))
    assert min(abs(means[i] - means[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 60


def test_what_is_not_shown_is_white_and_has_no_say():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 4, 5))
    shown = np.arange(16).reshape(4, 4) < 8
    far = np.where(shown[..., None], tokens, 1e6)
    colours, variance = token_colours(far, shown)
    assert (colours[~shown] == 255).all()
    np.testing.assert_array_equal(colours[shown], token_colours(tokens[shown])[0])
    np.testing.assert_array_equal(variance, token_colours(tokens[shown])[1])


def test_equal_and_few_tokens_are_no_error():
    assert (token_colours(np.ones((1, 2, 2, 4)))[0] <= 255).all()
    assert token_colours(np.ones((1, 1, 1, 2)))[0].shape == (1, 1, 1, 3)


def test_tiles_lie_at_their_places():
    colours = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
    field = mosaic(colours, np.array([[0, 0], [2, 0], [1, 1]]), (2, 3))
    assert field.shape == (4, 6, 3) and (field[:2, 4:] == 1).all() and (field[2:, 2:4] == 2).all()
    assert (field[2:, :2] == 255).all()
    assert beside(field, field, ("a", "b" * 200), 60).shape[1] > beside(None, field, ("", "b"), 60).shape[1]
