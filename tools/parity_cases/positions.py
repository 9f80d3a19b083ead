"""Resampling of position grids: the network's own, and the one that is done when weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np

from histojax.models.positions import resample
from histojax.weights.pos_embed import resample_grid
from parity_cases.check import Check, compare
from parity_cases.golden import ArrayFile, Arrays, Folder

MODES = {
    "offset0.1": "offset",
    "size": "exact",
    "antialias_size": "antialias",
    "antialias_offset0.1": "antialias-offset",
    "fork_load": "exact",  # what the paper's code does once, when it loads weights
    "plain_size": "exact",
}


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """`from<side>/pos_embed` with `from<side>/<mode>/<h>x<w>` or `from<side>/<mode>_<h>x<w>`."""
    for key in file.names:
        if match := re.fullmatch(r"from(\d+)/pos_embed", key):
            name = f"{file.name} from{match[1]}"
            yield name, partial(_grid, name, int(match[1]), file.arrays.below(f"from{match[1]}/"))


def _grid(name: str, side: int, data: Arrays) -> Iterator[Check]:
    table = data["pos_embed"]
    for key in data:
        match = re.fullmatch(r"(.+)[/_](\d+)x(\d+)", key)
        if not match or match[1] not in MODES:
            continue
        size, mode = (int(match[2]), int(match[3])), MODES[match[1]]
        grid = jnp.asarray(table[0, 1:])
        patches = grid if size == (side, side) else resample(grid, size, mode)
        ours = np.concatenate([table[:, :1], patches[None]], 1)
        yield compare(name, key, ours, data[key], atol=1e-5)
        yield compare(name, f"{key} at load", resample_grid(table, size, mode), data[key], atol=1e-5)
