"""Golden tiles, and what HistoBistro's filter measures on them and decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from histojax.slides.checks import edge_map, edge_percentage, histobistro_keeps, histobistro_shares
from parity_cases.check import Check, compare
from parity_cases.golden import ArrayFile, Arrays, Folder

SHARES = ("white_fraction", "black_fraction", "dark_fraction")
DECISIONS = {"keep_default": (0.3, 1.0), "keep_readme": (0.5, 4.0)}  # share of white and black, percentage of edges
EDGES = "canny_40_100"


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with `tiles` (n, h, w, 3) uint8 and decisions on them."""
    if "tiles" in file.names and any(key in file.names for key in DECISIONS):
        file.arrays.aside([n for n in file.names if n == "kinds"], "names of the tiles")
        yield file.name, partial(_tiles, file.name, file.arrays)


def _tiles(name: str, a: Arrays) -> Iterator[Check]:
    tiles = a["tiles"]
    for column, key in enumerate(SHARES):
        if key in a:
            yield compare(name, key, [histobistro_shares(tile)[column] for tile in tiles], a[key])
    if EDGES in a:
        yield compare(name, EDGES, np.stack([edge_map(tile) for tile in tiles]), a[EDGES])
    if "edge_percent" in a:
        yield compare(name, "edge_percent", [edge_percentage(tile) for tile in tiles], a["edge_percent"], atol=1e-12)
    for key, (invalid, edges) in DECISIONS.items():
        if key in a:
            yield compare(name, key, [histobistro_keeps(tile, invalid, edges) for tile in tiles], a[key])
