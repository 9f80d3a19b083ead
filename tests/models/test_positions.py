import numpy as np
import pytest

from histojax.models.positions import MODES, resample, resample_matrix


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "grid"), [(7, 16), (16, 37), (20, 16)])
def test_rows_sum_to_one(mode, size, grid):
    np.testing.assert_allclose(resample_matrix(size, grid, mode).sum(1), 1, atol=1e-6)


def test_same_size_is_the_identity_unless_the_offset_enters():
    for mode in ("exact", "antialias", "antialias-offset"):  # torch's antialiasing skips such an axis
        np.testing.assert_allclose(resample_matrix(5, 5, mode), np.eye(5), atol=1e-7)
    assert np.abs(resample_matrix(5, 5, "offset") - np.eye(5)).max() > 0.01


def test_rows_and_columns_are_not_confused():
    grid = np.zeros((5, 5, 1), np.float32)
    grid[0] = 1  # only the first row
    out = np.asarray(resample(grid.reshape(25, 1), (2, 3), "exact")).reshape(2, 3)
    assert np.ptp(out, axis=1).max() < 1e-6 and abs(out[0, 0]) > abs(out[1, 0])
