"""Weights that were read, and what is known of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from histojax.weights.library_configs import InputRule
from histojax.weights.licence import Link
from histojax.weights.reading_size import STORED
from histojax.weights.report import Report

Tree = dict[str, Any]


@dataclasses.dataclass
class KnownWeights:
    """A parameter tree, where it comes from, and what a card, a record or a run says of it."""

    name: str
    family: str
    layout: str
    tree: Tree
    report: Report
    notes: list[str]
    facts: dict[str, Any]  # for the card
    chain: tuple[Link, ...]
    heads: int | None = None
    eps: float | None = None
    rule: InputRule | None = None
    image: int | None = None  # input side for which features are wanted; None: that of the stored grid
    mode: str | None = None  # how the position grid is resampled to it, see weights.pos_embed
    grid: str = STORED  # how the position grid came about
    path: Path = Path()  # what was read
    sha256: str = ""  # of the file or files; "": a checkpoint, which is no file
    assumed: list[str] = dataclasses.field(default_factory=list)  # what the source does not state
