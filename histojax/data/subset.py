"""Some tiles of a source, and the table that says which: what an audit leaves of a set."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import write_atomic
from histojax.data.coded import Coded
from histojax.data.tiles import Facts, Joined, Source

TITLES = ("source", "fingerprint", "first", "last")  # first and last number of a run of tiles that are kept


class Subset:
    """The tiles `chosen` (n,) of a source, ascending numbers, as a Source."""

    def __init__(self, source: Source, chosen: np.ndarray, found: str = ""):
        self.source, self.chosen = source, np.asarray(chosen, np.int64)
        self.store_root = getattr(source, "store_root", "")
        self.classes = source.classes
        self.labels = source.labels[self.chosen]
        self.groups: Coded | None = None if source.groups is None else source.groups.take(self.chosen)
        facts = source.facts
        found = found or f"{len(self.chosen)} of {len(source)} tiles ({facts.found})"
        self.facts = Facts(found, facts.notes, facts.left_out, facts.group_kind, facts.cut_at)

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """As the whole source names it."""
        return self.source.name(int(self.chosen[index]))

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB; raises BadTile."""
        return self.source.read(int(self.chosen[index]))

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.source.fingerprint().encode())
        digest.update(self.chosen.tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over the source's fingerprint and the numbers of the tiles."""
        return self._fingerprint


def is_subset(path: Path) -> bool:
    """Whether a table is one that `write_subset` wrote."""
    with open(path, "rb") as file:
        return file.readline(200).strip() == ",".join(TITLES).encode()


def write_subset(path: Path, sources: Sequence[tuple[str, Source, np.ndarray]]) -> None:
    """Writes which tiles are kept: of each source what open_source takes, itself, ascending numbers of its tiles."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TITLES)
    for spec, source, kept in sources:
        place = os.path.abspath(os.path.expanduser(spec))
        shown, fingerprint = place if os.path.exists(place) else spec, source.fingerprint()
        begins = np.flatnonzero(np.diff(kept, prepend=-2) != 1)
        ends = np.append(begins[1:], len(kept)) - 1
        writer.writerows((shown, fingerprint, first, last) for first, last in zip(kept[begins], kept[ends]))
    write_atomic(path, text.getvalue())


def open_subset(path: Path, open_source: Callable[[str], Source]) -> Source:
    """The tiles that a table keeps; raises UserError if it is damaged, or a source is not what it was."""
    runs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                run = int(row["first"]), int(row["last"])
            except (TypeError, ValueError):
                raise UserError(f"{path}: line {line} is damaged, expected {','.join(TITLES)}") from None
            runs.setdefault((row["source"], row["fingerprint"]), []).append(run)
    if not runs:
        raise UserError(f"{path}: keeps no tile")
    parts = [_opened(path, spec, fingerprint, known, open_source) for (spec, fingerprint), known in runs.items()]
    return parts[0] if len(parts) == 1 else Joined(parts)


def _opened(
    path: Path, spec: str, fingerprint: str, runs: Sequence[tuple[int, int]], open_source: Callable[[str], Source]
) -> Subset:
    beside = os.path.join(path.parent, spec)
    source = open_source(beside if os.path.exists(beside) else spec)
    if source.fingerprint() != fingerprint:
        raise UserError(
            f"{path}: {spec} is not what it was when this list was written (tiles were added, removed or changed): run "
            "the audit again"
        )
    chosen = np.concatenate([np.arange(first, last + 1) for first, last in runs])
    if len(chosen) and (chosen[-1] >= len(source) or (np.diff(chosen) < 1).any() or chosen[0] < 0):
        raise UserError(f"{path}: names tiles of {spec} twice, out of order, or beyond its {len(source)} tiles")
    return Subset(source, chosen, f"{len(chosen)} of the {len(source)} tiles of {spec}, kept by {path.name}")
