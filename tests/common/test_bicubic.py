"""The matrices of bicubic resampling; tests of weights.pos_embed and models.positions compare what they make."""

import numpy as np
import pytest

from histojax.common.bicubic import MODES, resample_matrix


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size, grid", [(16, 37), (7, 16), (37, 16), (1, 5), (5, 1)])
def test_each_position_takes_weights_that_sum_to_one(size, grid, mode):
    np.testing.assert_allclose(resample_matrix(size, grid, mode).sum(axis=1), 1, atol=1e-5)


def test_an_axis_that_keeps_its_size_is_untouched_where_torch_skips_it():
    for mode, skipped in (("antialias-offset", True), ("antialias", True), ("exact", True), ("offset", False)):
        assert np.allclose(resample_matrix(16, 16, mode), np.eye(16), atol=1e-6) is skipped
