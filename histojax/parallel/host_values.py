"""Numbers of the host on their way to devices, of which a process sees its own only.

Nothing is sent between processes: each hands its devices what they hold, the parts together are one array.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding

Tree = Any


def rows_here(sharding: NamedSharding | None, count: int) -> list[int]:
    """Which of `count` rows, split as the sharding says, this process's devices hold, ascending; None: all of them."""
    if sharding is None:
        return list(range(count))
    return sorted({row for part in _parts(sharding, count).values() for row in part})


def place_rows(rows: np.ndarray, sharding: NamedSharding | None, count: int) -> jax.Array:
    """The array (count, ...) of which `rows`, those of `rows_here`, are in this process; the others hand in theirs."""
    if sharding is None:
        return jax.device_put(rows)
    here = {row: place for place, row in enumerate(rows_here(sharding, count))}
    shape = (count, *rows.shape[1:])
    parts = []
    for device, wanted in _parts(sharding, count).items():
        first = here[wanted[0]]
        parts.append(jax.device_put(rows[first : first + len(wanted)], device))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def place_whole(tree: Tree, sharding: NamedSharding | None) -> Tree:
    """Arrays or numbers that are the same in all processes, whole on every device."""
    if sharding is None:
        return jax.device_put(tree)
    return jax.tree.map(lambda leaf: place_parts(np.asarray(leaf), sharding), tree)


def place_parts(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """An array that every process has whole on the host: each device gets a copy of what it holds of it."""
    places = sharding.addressable_devices_indices_map(value.shape)
    parts = [jax.device_put(value[where], device, may_alias=False) for device, where in places.items()]
    return jax.make_array_from_single_device_arrays(value.shape, sharding, parts)


def _parts(sharding: NamedSharding, count: int) -> dict[Any, range]:
    """Which rows each device of this process holds."""
    slices = sharding.addressable_devices_indices_map((count,))
    return {device: range(count)[part[0]] for device, part in slices.items() if part}
