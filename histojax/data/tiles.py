"""What a source of tiles is: numbered tiles with labels, groups and pixels; and sources joined into one."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from histojax.common.depth import Unreadable
from histojax.data.coded import Coded, joined
from histojax.data.decode import BadTile, decode_tile

UNLABELLED = -1


@dataclass(frozen=True)
class Facts:
    """What has to be said about a source: what was found and left out, what was assumed, what its groups are."""

    found: str = ""  # e.g. 32 tiles (24 .bmp, 8 .png); left out: 1 (1 empty)
    notes: tuple[str, ...] = ()  # warnings, each a line that names the source
    left_out: tuple[tuple[str, str], ...] = ()  # (path, reason) of files that are no tiles
    group_kind: str = ""  # of `groups`: patient, slide, sample, group (a column of that title); "" without groups
    cut_at: tuple[tuple[int, float], ...] = ()  # (side in px, micrometres per pixel) of tiles cut from slides


NOTHING_TO_SAY = Facts()


class Source(Protocol):
    """Tiles by number. `labels` index `classes`, -1 is unlabelled; `groups` names each tile's patient or slide.

    `facts.group_kind` says which of the two.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; empty when nothing is labelled."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32."""

    @property
    def groups(self) -> Coded | None:
        """(n,) names, "" where unknown; None when no tile has one."""

    @property
    def facts(self) -> Facts:
        """What to say about it."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path of a tile, for messages."""

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB as stored; raises BadTile."""

    def fingerprint(self) -> str:
        """SHA-256 that changes when a tile is added, removed, renamed or changes its size."""


class Files(Protocol):
    """Where encoded tiles lie: files, zip members, shards. Must survive pickling: workers get a copy."""

    def load(self, index: int) -> bytes:
        """The encoded tile."""

    def size(self, index: int) -> int:
        """Its length in bytes, without reading it; -1 when it is missing."""


class EncodedTiles:
    """A Source of encoded images: `names` under `root`, loaded by `files`, labelled by class name ("": none)."""

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        files: Files,
        class_names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        coords: np.ndarray | None = None,
        facts: Facts = NOTHING_TO_SAY,
    ):
        self.root = root
        self.names = names
        self.files = files
        self.classes, self.labels = label_table(class_names or [""] * len(names))
        self.groups = Coded.of(groups) if groups is not None and any(groups) else None
        self.facts = facts
        self.coords = coords  # (n, 2) int64 x, y in level-0 pixels, or None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """`root/name` of a tile; a CSV's absolute path as it is."""
        return os.path.join(self.root, self.names[index])

    def encoded(self, index: int) -> bytes:
        """The file's bytes; raises BadTile when they cannot be had."""
        try:
            return self.files.load(index)
        except Unreadable as error:
            raise BadTile(self.name(index), str(error)) from None
        except FileNotFoundError:
            raise BadTile(self.name(index), "the file does not exist") from None
        except Exception as error:  # OSError, BadZipFile, zlib.error, RuntimeError (encrypted), shard errors
            raise BadTile(self.name(index), f"cannot be read ({type(error).__name__}: {error})") from None

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB; raises BadTile."""
        return decode_tile(self.encoded(index), self.name(index))

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):
            digest.update(f"{name}\0{self.files.size(index)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over (name, size) of all tiles; names are relative, so a moved folder keeps it."""
        return self._fingerprint


class Joined:
    """Several sources in a row. Classes are merged by name; tiles of an unlabelled source stay at -1."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(s) for s in self.sources]).tolist()
        self.classes = tuple(sorted(set().union(*(s.classes for s in self.sources))))
        self.labels = np.concatenate([_relabelled(s, self.classes) for s in self.sources])
        self.groups = _joined_groups(self.sources)
        self.facts = _joined_facts(self.sources)

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[Source, int]:
        """(source, number within it) of a tile."""
        part = bisect_right(self._ends, index)
        return self.sources[part], index - (self._ends[part - 1] if part else 0)

    def name(self, index: int) -> str:
        """Path of a tile, as its own source names it."""
        source, inner = self.locate(index)
        return source.name(inner)

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB; raises BadTile."""
        source, inner = self.locate(index)
        return source.read(inner)

    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the parts, in order."""
        return hashlib.sha256("\n".join(s.fingerprint() for s in self.sources).encode()).hexdigest()


def label_table(class_names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """(sorted class names, (n,) int32 labels) of one class name a tile, "" for none."""
    classes = tuple(sorted(set(class_names) - {""}))
    number = {name: label for label, name in enumerate(classes)} | {"": UNLABELLED}
    return classes, np.fromiter((number[name] for name in class_names), np.int32, len(class_names))


def count_shared(first: Source, second: Source) -> int:
    """Tiles that both sources hold, by their path."""
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Joined):
            return sum(count_shared(part, other) for part in one.sources)
    roots = {getattr(source, "store_root", "") for source in (first, second)}
    if len(roots) > 1:  # what a store holds lies nowhere else: millions of names need not be made
        return 0
    small, large = sorted((first, second), key=len)
    paths = {os.path.abspath(small.name(i)) for i in range(len(small))}
    return len(paths & {os.path.abspath(large.name(i)) for i in range(len(large))})


def _relabelled(source: Source, classes: tuple[str, ...]) -> np.ndarray:
    table = np.array([classes.index(name) for name in source.classes] + [UNLABELLED], np.int32)
    return table[source.labels]  # -1 picks the last entry: itself


def _joined_groups(sources: Sequence[Source]) -> Coded | None:
    if all(s.groups is None for s in sources):
        return None
    return joined([Coded([""], np.zeros(len(s), np.int8)) if s.groups is None else s.groups for s in sources])


def _joined_facts(sources: Sequence[Source]) -> Facts:
    """Facts of all; groups are called by the smallest unit among them."""
    kinds = {s.facts.group_kind for s in sources if s.groups is not None}
    kind = next((k for k in ("slide", "sample", "group", "patient") if k in kinds), "")
    found = "; ".join(f"{s.facts.found}" for s in sources if s.facts.found)
    notes = tuple(dict.fromkeys(note for s in sources for note in s.facts.notes))
    cut_at = tuple(dict.fromkeys(one for s in sources for one in s.facts.cut_at))
    return Facts(found, notes, tuple(one for s in sources for one in s.facts.left_out), kind, cut_at)
