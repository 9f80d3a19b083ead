"""What we write, the safetensors library reads; and equal tensors give equal files."""

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from histojax.weights.safetensors_file import write_safetensors

TENSORS = {
    "flags": np.array([True, False, True]),
    "half": np.arange(5, dtype=np.float16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "double": np.array([1.5, -2.5]),
}


def test_the_library_reads_every_dtype_shape_and_stride(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", TENSORS, {"format": "pt", "b": "é"})
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "b": "é"}


def test_bfloat16_keeps_its_bits(tmp_path):
    array = np.array([1.0, -3.140625, 1e30], ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "a.safetensors", {"x": array})
    data = (tmp_path / "a.safetensors").read_bytes()
    assert b'"dtype":"BF16"' in data
    assert data.endswith(array.tobytes())


def test_the_order_of_the_metadata_does_not_matter(tmp_path):
    for name, metadata in (("a", {"x": "1", "y": "2"}), ("b", {"y": "2", "x": "1"})):
        write_safetensors(tmp_path / name, TENSORS, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_unknown_dtype_is_named(tmp_path):
    with pytest.raises(ValueError, match="z: safetensors cannot hold complex64"):
        write_safetensors(tmp_path / "a", {"z": np.zeros(2, np.complex64)})
    assert not (tmp_path / "a").exists()
