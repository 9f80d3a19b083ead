"""Keeping account of unreadable tiles: a few are listed and survived, many stop the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from histojax.common.errors import UserError
from histojax.common.files import write_atomic
from histojax.common.host_memory import give_back_freed
from histojax.common.tables import csv_text
from histojax.data.decode import BadTile
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import Source

GRACE = 8  # distinct bad tiles before a share of the tiles seen so far means anything
FLAT = 2.0  # grey levels; a tile whose every channel spreads less shows nothing


class BadTileLog:
    """Distinct unreadable tiles of a training run, counted in the main process.

    Of `n` tiles the limit is `max_bad_share * n`. Before all were seen, the count may lie three standard
    deviations above the limit's share of the tiles seen (drawn without replacement, so the slack shrinks to
    nothing over the first pass): a run whose true share is below the limit does not stop by an unlucky start.
    """

    def __init__(self, source: Source, max_bad_share: float, path: Path | str | None = None):
        self._source = source
        self._limit = max_bad_share
        self._path = None if path is None else Path(path)
        self._rows = 0  # tiles asked for so far, replaced ones included
        self._bad: dict[int, tuple[str, str]] = {}  # tile number: (path, reason)

    def __len__(self) -> int:
        return len(self._bad)

    @property
    def paths(self) -> list[str]:
        """Paths of the bad tiles, in the order they were met."""
        return [path for path, _ in self._bad.values()]

    def update(self, bad: np.ndarray) -> None:
        """Counts one batch's `bad` (B,), logs and lists what is new; raises UserError above the limit."""
        self.add(len(bad), self.look(bad))

    def look(self, bad: np.ndarray) -> list[tuple[int, str, str]]:
        """(number, path, reason) of those in `bad` (B,) that are new. The reason comes from reading each once more."""
        new = dict.fromkeys(int(index) for index in bad if index >= 0 and int(index) not in self._bad)
        return [(index, *_diagnose(self._source, index)) for index in new]

    def add(self, rows: int, found: Iterable[Sequence[Any]]) -> None:
        """Counts so many tiles asked for, and what `look` found among them, here or in other processes.

        `bad_tiles.csv` is rewritten when it grows; raises UserError above the limit.
        """
        self._rows += rows
        known = len(self._bad)
        for index, path, reason in found:
            if index not in self._bad:
                self._bad[index] = path, reason
                logging.warning("bad tile skipped: %s: %s", path, reason)
        if len(self._bad) > known and self._path is not None:
            write_atomic(self._path, bad_tiles_csv(self._bad.values()))
        if self._too_many():
            raise UserError(self._message())

    def get_state(self) -> dict[str, Any]:
        """JSON-able state for a checkpoint."""
        return {"rows": self._rows, "bad": [[index, *found] for index, found in self._bad.items()]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state()`."""
        self._rows = int(state["rows"])
        self._bad = {int(index): (path, reason) for index, path, reason in state["bad"]}

    def _too_many(self) -> bool:
        count, n = len(self._bad), len(self._source)
        seen = min(self._rows, n)
        spread = self._limit * (1 - self._limit) * seen * (1 - seen / n)
        judged = count >= GRACE or seen == n or self._limit == 0
        return judged and count > self._limit * seen + 3 * math.sqrt(spread)

    def _message(self) -> str:
        count, seen = len(self._bad), min(self._rows, len(self._source))
        listed = f"all are listed in {self._path}" if self._path else f"the last: {self.paths[-1]}"
        return (
            f"{count} of {seen} tiles seen are unreadable ({count / seen:.1%}, limit {self._limit:.1%}): "
            f"{examples(self._bad.values())}; {listed}. Repair or remove them, or raise data.max_bad_share"
        )


def sample_check(source: Source, n: int = 64, max_bad_share: float = 0.5) -> list[BadTile]:
    """The unreadable ones among `n` tiles spread evenly over `source`; a second's work before a compilation.

    Raises UserError when more than `max_bad_share` of them are bad, or when all that can be read are of one colour.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(n, len(source))).astype(np.int64))
    bad: list[BadTile] = []
    flat: list[tuple[str, float]] = []  # path and mean of the tiles without structure
    for index in map(int, chosen):
        tile = _try_read(source, index)
        if isinstance(tile, BadTile):
            bad.append(tile)
        elif tile.std(axis=(0, 1)).max() < FLAT:
            flat.append((source.name(index), float(tile.mean())))
    if len(bad) > max_bad_share * len(chosen):
        raise UserError(
            f"{len(bad)} of {len(chosen)} tiles tried are unreadable: {examples((e.path, e.reason) for e in bad)}"
        )
    good = len(chosen) - len(bad)
    if flat and len(flat) == good:
        path, mean = flat[0]
        raise UserError(
            f"all {good} tiles tried are of one colour (the first: {path}, mean {mean:.1f} of 255): {_why_flat(mean)}"
        )
    if len(flat) > good / 2:
        logging.warning("%d of %d tiles tried are of one colour, e.g. %s", len(flat), good, flat[0][0])
    return bad


def _why_flat(mean: float) -> str:
    if mean < 4:
        return "black tiles: masks, or samples stored on a smaller scale than the file's? Save them as 8-bit RGB"
    if mean > 250:
        return "white tiles: empty glass, or an alpha channel that hides everything? Take tiles with tissue"
    return "nothing can be learnt from them; look at them and take tiles with tissue"


def unreadable(source: Source, indices: Iterable[int] | np.ndarray, threads: int = 8) -> dict[int, BadTile]:
    """{tile number: why} for the tiles in `indices` that cannot be read. Each is read once; drawn tissue always can."""
    if isinstance(source, SyntheticTissue):
        return {}
    numbers = [int(index) for index in indices]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda index: _why_unreadable(source, index), numbers)
        errors = {index: error for index, error in zip(numbers, found) if error is not None}
    give_back_freed()  # what the threads decoded; nothing of it is kept
    return errors


def _why_unreadable(source: Source, index: int) -> BadTile | None:
    tried = _try_read(source, index)
    return tried if isinstance(tried, BadTile) else None


def bad_tiles_csv(bad: Iterable[tuple[str, str]]) -> str:
    """CSV text with the header path,reason."""
    return csv_text(("path", "reason"), bad)


def _try_read(source: Source, index: int) -> np.ndarray | BadTile:
    try:
        return source.read(index)
    except BadTile as error:
        # anew: the one that was raised holds, by its traceback and context, the bytes that were read
        return BadTile(error.path, error.reason)


def _diagnose(source: Source, index: int) -> tuple[str, str]:
    error = _try_read(source, index)
    if not isinstance(error, BadTile):
        return source.name(index), "failed once but readable now (storage or network trouble?)"
    return error.path, error.reason


def examples(bad: Iterable[tuple[str, str]], most: int = 3) -> str:
    """The first few (path, reason) in words."""
    return "; ".join(f"{path} ({reason})" for path, reason in list(bad)[:most])
