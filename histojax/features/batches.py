"""Prepared tiles on their way into batches: cut from the front of what waits, filled up to one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histojax.features.device import Devices


@dataclass
class Rows:
    """Prepared tiles of one job that wait for a batch: their rows, and for each rule the pixels."""

    job: int
    numbers: np.ndarray
    prepared: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, chosen: slice) -> Rows:
        return Rows(self.job, self.numbers[chosen], tuple(array[chosen] for array in self.prepared))


def taken(pending: deque[Rows], size: int) -> list[Rows]:
    """At most `size` tiles from the front of what waits."""
    parts: list[Rows] = []
    left = size
    while pending and left:
        rows = pending.popleft()
        if len(rows) > left:
            pending.appendleft(rows.part(slice(left, None)))
            rows = rows.part(slice(left))
        parts.append(rows)
        left -= len(rows)
    return parts


def batch_of(parts: Sequence[Rows], devices: Devices) -> list[np.ndarray]:
    """For each rule one array of the size of a batch, zeros where there are no tiles."""
    batch = []
    for which in range(len(devices.rules)):
        arrays = [rows.prepared[which] for rows in parts]
        whole = np.zeros((devices.size, *arrays[0].shape[1:]), np.uint8)
        np.concatenate(arrays, out=whole[: sum(map(len, arrays))])
        batch.append(whole)
    return batch
