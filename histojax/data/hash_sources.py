"""Hashes of all tiles of a source: made by several processes, kept in a folder, gone on with after a kill."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import make_folder, replacing
from histojax.common.progress import Progress
from histojax.common.work import run
from histojax.data.decode import BadTile
from histojax.data.hashes import ROW, hash_tile
from histojax.data.sources import open_source
from histojax.data.tiles import Source

VERSION = 1  # raise it when a hash changes: those that are kept are made anew then
CHUNK = 4096  # tiles of a file of hashes


@dataclass(frozen=True)
class _Chunk:
    """Tiles to hash, and where their hashes go."""

    spec: str
    first: int
    last: int
    path: Path


def hash_source(spec: str, source: Source, folder: Path, workers: int, progress: Progress, done: int) -> Hashes:
    """The hashes of all tiles of a source, those kept in `folder` from earlier runs included.

    `done` tiles were hashed before, of all that `progress` counts. Raises UserError where tiles cannot be hashed for
    another reason than themselves.
    """
    place = folder / f"{source.fingerprint()[:24]}-{VERSION}"
    make_folder(place)
    chunks = [
        _Chunk(spec, first, min(first + CHUNK, len(source)), place / f"{first:09d}.npz")
        for first in range(0, len(source), CHUNK)
    ]
    missing = [chunk for chunk in chunks if not chunk.path.exists()]
    done += len(source) - sum(chunk.last - chunk.first for chunk in missing)
    progress.update(done)
    if not workers:
        _opened.cache_clear()
    for outcome in run(_hash_chunk, missing, workers):
        if outcome.error:
            chunk = outcome.unit
            raise UserError(f"{spec}: tiles {chunk.first} to {chunk.last - 1} cannot be hashed: {outcome.error}")
        done += outcome.value
        progress.update(done, outcome.value)
    return Hashes(*map(tuple, zip(*map(_read, chunks))))


@dataclass(frozen=True)
class Hashes:
    """Of a source, chunk by chunk: rows of hashes, and {tile number: why it cannot be read}."""

    parts: tuple[np.ndarray, ...]
    reasons: tuple[dict[int, str], ...]

    def rows(self) -> np.ndarray:
        """(n,) ROW."""
        return np.concatenate(self.parts)

    def bad(self) -> dict[int, str]:
        """{tile number: why it cannot be read}."""
        return {number: reason for part in self.reasons for number, reason in part.items()}


@functools.lru_cache(maxsize=4)
def _opened(spec: str) -> Source:
    return open_source(spec)


def _hash_chunk(chunk: _Chunk) -> int:
    """Writes the hashes of a chunk; returns how many tiles it has."""
    source = _opened(chunk.spec)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: _hashed(source, i), range(chunk.first, chunk.last)))
    rows = np.zeros(len(found), ROW)
    bad: dict[int, str] = {}
    for place, one in enumerate(found):
        if isinstance(one, BadTile):
            rows[place]["bad"] = True
            bad[chunk.first + place] = one.reason
        else:
            rows[place] = one
    with replacing(chunk.path) as partial, open(partial, "wb") as file:
        np.savez(file, rows=rows, numbers=np.array(list(bad), np.int64), reasons=np.array(list(bad.values()), str))
    return len(rows)


def _hashed(source: Source, index: int) -> np.ndarray | BadTile:
    try:
        return hash_tile(source.read(index))
    except BadTile as error:
        return BadTile(error.path, error.reason)  # without the traceback, which holds the bytes


def _read(chunk: _Chunk) -> tuple[np.ndarray, dict[int, str]]:
    with np.load(chunk.path) as file:
        return file["rows"], dict(zip(file["numbers"].tolist(), file["reasons"].tolist()))
