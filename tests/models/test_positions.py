import numpy as np

from histojax.models.positions import resample


def test_rows_and_columns_are_not_confused():
    grid = np.zeros((5, 5, 1), np.float32)
    grid[0] = 1  # only the first row
    out = np.asarray(resample(grid.reshape(25, 1), (2, 3), "exact")).reshape(2, 3)
    assert np.ptp(out, axis=1).max() < 1e-6 and abs(out[0, 0]) > abs(out[1, 0])
