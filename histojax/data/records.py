"""What a source of tiles is: numbered records with labels, groups and pixels; and sources joined into one."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from histojax.common.errors import UserError
from histojax.data.decode import BadTile, decode_tile
from histojax.data.depth import Unreadable

UNLABELLED = -1


@dataclass(frozen=True)
class Facts:
    """What has to be said about a source: what was found and left out, what was assumed, what its groups are."""

    found: str = ""  # e.g. 32 tiles (24 .bmp, 8 .png); left out: 1 (1 empty)
    notes: tuple[str, ...] = ()  # warnings, each a line that names the source
    left_out: tuple[tuple[str, str], ...] = ()  # (path, reason) of files that are no tiles
    group_kind: str = ""  # of `groups`: patient, slide, sample, group (a column of that title); "" without groups


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
    def groups(self) -> np.ndarray | None:
        """(n,) str, "" where unknown; None when no tile has one."""

    @property
    def facts(self) -> Facts:
        """What to say about it."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path of a record, for messages."""

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB as stored; raises BadTile."""

    def fingerprint(self) -> str:
        """SHA-256 that changes when a record is added, removed, renamed or changes its size."""


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
        facts: Facts = Facts(),  # noqa: B008: frozen
    ):
        self.root = root
        self.names = names
        self.files = files
        self.classes, self.labels = label_table(class_names or [""] * len(names))
        self.groups = np.asarray(groups, str) if groups is not None and any(groups) else None
        self.facts = facts
        self.coords = coords  # (n, 2) int64 x, y in level-0 pixels, or None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """`root/name` of a record; a CSV's absolute path as it is."""
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
        """SHA-256 over (name, size) of all records; names are relative, so a moved folder keeps it."""
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
        """(source, number within it) of a record."""
        part = bisect_right(self._ends, index)
        return self.sources[part], index - (self._ends[part - 1] if part else 0)

    def name(self, index: int) -> str:
        """Path of a record, as its own source names it."""
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
    """(sorted class names, (n,) int32 labels) of one class name a record, "" for none."""
    classes = tuple(sorted(set(class_names) - {""}))
    number = {name: label for label, name in enumerate(classes)} | {"": UNLABELLED}
    return classes, np.fromiter((number[name] for name in class_names), np.int32, len(class_names))


def split_labelled(source: Source, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) record numbers, int64 and ascending, of the labelled tiles; the same for the same seed.

    With groups, whole patients go to one side, chosen so that every class comes close to `test_share`; a tile
    without a group is a group of its own. Without groups each class is split by itself. Raises UserError when
    nothing is labelled or there are not two groups (or tiles) to split.
    """
    labelled = np.flatnonzero(source.labels != UNLABELLED)
    if not labelled.size:
        raise UserError("no tile is labelled: put tiles into one folder a class, or use a CSV with a label column")
    if not 0 < test_share < 1:
        raise UserError(f"test share {test_share} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    labels = source.labels[labelled]
    if source.groups is None:
        is_test = _stratified(labels, test_share, rng)
    else:
        is_test = _whole_groups(labels, source.groups[labelled], test_share, rng)
    if is_test.all() or not is_test.any():
        what = "tiles" if source.groups is None else "patients"
        raise UserError(f"{len(labelled)} labelled tiles do not split into two sets of {what}: name a test set")
    return labelled[~is_test], labelled[is_test]


def split_in_words(source: Source) -> str:
    """How `split_labelled` parts a source: "split by patient" only if every labelled tile has one."""
    kind = source.facts.group_kind
    if source.groups is None or not any(source.groups[source.labels != UNLABELLED]):
        return "split by class (no patients known: tiles of one slide may be in two parts)"
    without = int((source.groups[source.labels != UNLABELLED] == "").sum())
    words = f"split by {kind or 'group'}" + (f" where known ({without} tiles have none)" if without else "")
    return words if kind in ("patient", "group") else f"{words} (patients unknown: one may be in two parts)"


def _stratified(labels: np.ndarray, test_share: float, rng: np.random.Generator) -> np.ndarray:
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(test_share * len(members))]] = True
    return is_test


def _whole_groups(labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Greedy: in random order, a group joins the test set when that brings the class counts nearer to the goal."""
    known = groups != ""
    names, member = np.unique(groups[known], return_inverse=True)
    group_of = np.empty(len(labels), np.int64)
    group_of[known] = member
    group_of[~known] = len(names) + np.arange((~known).sum())
    counts = np.zeros((group_of.max() + 1, labels.max() + 1))
    np.add.at(counts, (group_of, labels), 1)
    total = np.maximum(counts.sum(0), 1)
    missing = np.full(len(total), share)  # share of each class that the test set still lacks
    in_test = np.zeros(len(counts), bool)
    for group in rng.permutation(len(counts)):
        rest = missing - counts[group] / total
        if np.square(rest).sum() < np.square(missing).sum() and in_test.sum() < len(counts) - 1:
            in_test[group], missing = True, rest
    if not in_test.any() and len(counts) > 1:  # every patient is bigger than the goal: take the smallest
        in_test[counts.sum(1).argmin()] = True
    return in_test[group_of]


def _relabelled(source: Source, classes: tuple[str, ...]) -> np.ndarray:
    table = np.array([classes.index(name) for name in source.classes] + [UNLABELLED], np.int32)
    return table[source.labels]  # -1 picks the last entry: itself


def _joined_groups(sources: Sequence[Source]) -> np.ndarray | None:
    if all(s.groups is None for s in sources):
        return None
    return np.concatenate([np.full(len(s), "") if s.groups is None else s.groups for s in sources])


def _joined_facts(sources: Sequence[Source]) -> Facts:
    """Facts of all; groups are called by the smallest unit among them."""
    kinds = {s.facts.group_kind for s in sources if s.groups is not None}
    kind = next((k for k in ("slide", "sample", "group", "patient") if k in kinds), "")
    found = "; ".join(f"{s.facts.found}" for s in sources if s.facts.found)
    notes = tuple(dict.fromkeys(note for s in sources for note in s.facts.notes))
    return Facts(found, notes, tuple(one for s in sources for one in s.facts.left_out), kind)
