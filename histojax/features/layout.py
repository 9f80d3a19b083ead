"""How one program's feature files are read: a row of functions, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import dataset
from histojax.features.stored import Header, StoredFeatures

FARTHEST = 2.0**31  # pixels or micrometres: no slide is so wide


@dataclass(frozen=True)
class Asked:
    """What the caller knows of a slide and the file does not say."""

    slide_mpp: float | None = None
    patches: Path | None = None


@dataclass(frozen=True)
class Layout:
    """The files of one program: whether a file is one, its header, its arrays."""

    kind: str
    recognises: Callable[[h5py.File], bool]
    header: Callable[[h5py.File, Path, Asked], Header]
    arrays: Callable[[h5py.File, Header], StoredFeatures]


def number(value: Any) -> float | None:
    """A positive finite number, be it given as one, as text or as an array of equal ones; None for anything else."""
    try:
        values = np.unique(np.asarray(value).astype(np.float64))
    except (TypeError, ValueError):
        return None
    return float(values[0]) if len(values) == 1 and 0 < values[0] < np.inf else None


def whole(value: Any) -> int | None:
    """The same for whole numbers, zero among them."""
    found = 0.0 if np.array_equal(value, 0) else number(value)
    return None if found is None or found != round(found) else round(found)


def matrix(file: h5py.File, names: Sequence[str] = ("features", "feats")) -> h5py.Dataset | None:
    """The dataset of features under one of its names, None without one; raises UserError for anything but numbers.

    Its shape is (n, d), or (1, n, d) as some programs write it.
    """
    found = next((data for name in names if (data := dataset(file, name)) is not None), None)
    if found is None:
        return None
    if found.dtype.kind != "f":
        raise UserError(f"{file.filename}: features are {found.dtype}, expected floating point numbers")
    if found.ndim == 1:
        raise UserError(f"{file.filename}: holds one vector of the shape {found.shape}, expected (tiles, width)")
    if found.ndim != 2 and not (found.ndim == 3 and found.shape[0] == 1):
        raise UserError(f"{file.filename}: features have the shape {found.shape}, expected (tiles, width)")
    return found


def size_of(data: h5py.Dataset) -> tuple[int, int]:
    """(tiles, width) of what `matrix` found."""
    return int(data.shape[-2]), int(data.shape[-1])


def values_of(data: h5py.Dataset) -> np.ndarray:
    """(n, d) of what `matrix` found, float16 as float32."""
    values = data[()].reshape(size_of(data))
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def pairs(data: h5py.Dataset, columns: tuple[int, ...] = (2,)) -> np.ndarray:
    """(n, 2) of coordinates, of (1, n, 2) too; raises UserError for other shapes and for anything not finite."""
    values = data[()]
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.shape[1] not in columns:
        raise UserError(f"{data.file.filename}: coords have the shape {data.shape}, expected (tiles, {columns[0]})")
    beyond = ~(np.abs(values.astype(np.float64)) < FARTHEST)
    if beyond.any():
        what = "larger than any slide" if np.isfinite(values).all() else "not finite"
        raise UserError(f"{data.file.filename}: coords are {what} in {int(beyond.any(1).sum())} rows")
    return values


def whole_pixels(values: np.ndarray) -> np.ndarray:
    """(n, 2) int64, rounded."""
    return np.rint(values).astype(np.int64)
