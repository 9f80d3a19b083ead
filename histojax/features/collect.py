"""The features of one slide while they come in, from any batches in any order, until its files can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import advice, reason

MISSING, GOOD, BAD, REJECTED = 0, 1, 2, 3


class Gathered:
    """Rows of `count` tiles for several encoders.

    Args:
        count: tiles of the slide.
        widths: for each encoder the shapes of a tile's features and, if wanted, of its tokens.
        save: dtype of the tokens, which lie in a file meanwhile.
        folders: where that file is made, one an encoder.
    """

    def __init__(self, count: int, widths: Sequence[tuple[tuple[int, ...], ...]], save: str, folders: Sequence[Path]):
        self.count = count
        self.state = np.zeros(count, np.uint8)
        self.reasons: dict[int, str] = {}  # of bad and rejected tiles, by row
        self.features = [np.zeros((count, *shapes[0]), np.float32) for shapes in widths]
        self.tokens = [
            _on_disk(folder, (count, *shapes[1]), save) if len(shapes) > 1 and count else None
            for shapes, folder in zip(widths, folders)
        ]

    def add(self, rows: np.ndarray, outputs: Sequence[tuple[np.ndarray, ...]]) -> None:
        """What each encoder gave for these rows."""
        for features, tokens, one in zip(self.features, self.tokens, outputs):
            features[rows] = one[0]
            if tokens is not None:
                with np.errstate(over="ignore"):
                    tokens[rows] = one[1]
        self.state[rows] = GOOD

    def leave_out(self, row: int, reason: str, state: int) -> None:
        """A tile that has no features: unreadable (BAD) or not wanted (REJECTED)."""
        self.state[row] = state
        self.reasons[row] = reason

    @property
    def complete(self) -> bool:
        """Whether every tile is accounted for."""
        return bool((self.state != MISSING).all())

    @property
    def share(self) -> float:
        """The share of tiles that are accounted for."""
        return np.count_nonzero(self.state) / max(self.count, 1)

    def rows(self, *states: int) -> np.ndarray:
        """The rows in one of these states, ascending."""
        return np.flatnonzero(np.isin(self.state, states))


class Picked:
    """Some rows of an array, taken when they are asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype, self.size = array.dtype, int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        found = self.array[self.rows[index]]
        if not np.isfinite(found).all():
            raise UserError("patch tokens are not finite as saved; take --save float32, or --dtype float32")
        return found


def _on_disk(folder: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array in a nameless file, which goes with this process however that ends."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{folder}: there is no room for the patch tokens of one slide, {size / 2**20:,.1f} MiB "
            f"({reason(error)}){advice(error)}"
        ) from None


def _reserve(handle: int, size: int) -> None:
    """Takes the space now: a mapped file that finds the disk full later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)
