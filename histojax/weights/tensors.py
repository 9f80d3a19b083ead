"""Files of tensors that are opened and not yet read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from histojax.common.errors import UserError

_DTYPES: tuple[tuple[Any, str, str], ...] = (  # type, its code in safetensors, torch's storage
    (np.float64, "F64", "Double"),
    (np.float32, "F32", "Float"),
    (np.float16, "F16", "Half"),
    (ml_dtypes.bfloat16, "BF16", "BFloat16"),
    (ml_dtypes.float8_e4m3fn, "F8_E4M3", ""),
    (ml_dtypes.float8_e5m2, "F8_E5M2", ""),
    (np.complex64, "", "ComplexFloat"),
    (np.complex128, "", "ComplexDouble"),
    (np.int64, "I64", "Long"),
    (np.int32, "I32", "Int"),
    (np.int16, "I16", "Short"),
    (np.int8, "I8", "Char"),
    (np.uint64, "U64", ""),
    (np.uint32, "U32", ""),
    (np.uint16, "U16", ""),
    (np.uint8, "U8", "Byte"),
    (np.bool_, "BOOL", "Bool"),
)
SAFE_DTYPES = {code: np.dtype(kind) for kind, code, _ in _DTYPES if code}
STORAGE_DTYPES = {storage: np.dtype(kind) for kind, _, storage in _DTYPES if storage}
TORCH_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind, _, _ in _DTYPES}  # torch's names are numpy's


@dataclass
class Storage:
    """Flat memory of one or more tensors: where it lies in the file."""

    dtype: np.dtype
    count: int
    start: int = -1


@dataclass
class LazyTensor:
    """A tensor that is still in its file. Shape and dtype are known; `.numpy()` reads the bytes it covers."""

    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    storage: Storage
    offset: int  # elements from the start of the storage
    strides: tuple[int, ...]  # in elements

    def numpy(self) -> np.ndarray:
        """Return a new array; bfloat16 and float8 as ml_dtypes types."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        size = self.dtype.itemsize
        count = span(self.shape, self.strides) * size
        data = np.fromfile(self.path, np.uint8, count, offset=self.storage.start + self.offset * size)
        if len(data) != count:
            raise UserError(
                f"{self.path}: ended inside a tensor; it changed or is truncated: delete it and download it again"
            )
        flat = data.view(self.dtype)
        if self.strides == row_major(self.shape):
            return flat.reshape(self.shape)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [step * size for step in self.strides])
        return np.array(view, order="C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self.numpy()
        return value if dtype is None else value.astype(dtype)


@dataclass
class Array:
    """A tensor at hand already (a numpy array inside a pickle), with the interface of LazyTensor."""

    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def numpy(self) -> np.ndarray:
        return np.array(self.value)


@dataclass
class TensorFile:
    """What a file holds: its tensors, still in it, and what else was found."""

    path: Path
    container: str  # "zip .pth", "legacy .pth", "safetensors", "sharded safetensors", "sharded .bin"
    tensors: dict[str, Any]  # of a pickle with dicts in dicts: "key/key/name"
    other: dict[str, str] = field(default_factory=dict)  # what is beside the tensors of a pickle: key, what it is
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file
    named: set[str] = field(default_factory=set)  # what a pickle wants to import beside torch's own; nothing is run


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of elements from the first to the last one of a view, both included."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
