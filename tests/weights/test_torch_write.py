"""A .pt without torch: its description is torch's own, byte for byte."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from histojax.weights.containers import open_array
from histojax.weights.torch_write import torch_bytes

BY_TORCH = Path(__file__).parents[1] / "golden/feature_files/clam_feat_level0_256px__cmu-1-small-region.pt"


def test_members_are_those_that_torch_writes(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(open_array(BY_TORCH), "cmu-1-small-region"))
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(BY_TORCH) as theirs:
        for name in ours.namelist():
            assert ours.read(name) == theirs.read(name)
        assert {info.compress_type for info in ours.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (70_000, 2)])
def test_arrays_come_back(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(array, "a"))
    np.testing.assert_array_equal(open_array(path), array)
    assert path.read_bytes() == torch_bytes(array.astype(np.float64), "a")
