"""Feature files as bags: a file a slide of any program, or one file whose tiles say whose they are.

A name in a table finds a file by its path below the folder, by its name with or without suffix, or by its name up to
the first dot or "_files" (HistoBistro). `histojax extract` of a list with patients makes one file with groups: there
each group is a bag of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.formats import suffix_of
from histojax.data.slide_folder import SLIDE_SUFFIXES
from histojax.features.hdf5 import opened
from histojax.features.histobistro import AUGMENTED
from histojax.features.read import TENSORS, EmptyFile, read_features, read_header
from histojax.features.stored import Header, StoredFeatures

SUFFIXES = (".h5", ".hdf5", *TENSORS)
NOT_FEATURES = ("patches", "visualization")  # folders of an extraction beside its features


@dataclass(frozen=True)
class BagFile:
    """The features of one name in a table."""

    name: str
    header: Header
    tiles: int
    load: Callable[[], np.ndarray]
    augmented: Callable[[np.random.Generator], np.ndarray] | None = None


@dataclass
class BagFiles:
    """All bags of some folders, found by the names that tables have for them.

    Args:
        bags: by their own names; in the order of the folders.
        empty: (name, reason) of files without tiles.
        bad: (name, reason) of files that cannot be read.
    """

    bags: list[BagFile] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    _exact: dict[str, list[int]] = field(default_factory=dict)
    _short: dict[str, list[int]] = field(default_factory=dict)

    def add(self, bag: BagFile, names: Iterable[str]) -> None:
        """Takes a bag that any of the names may mean."""
        number = len(self.bags)
        self.bags.append(bag)
        for name in dict.fromkeys([bag.name, *names]):
            self._exact.setdefault(name, []).append(number)
        for name in {cut(bag.name), *map(cut, names)}:
            self._short.setdefault(name, []).append(number)

    def find(self, name: str) -> BagFile | None:
        """The bag that a table calls `name`; None without one. Raises UserError if it may be several."""
        for known, asked in self._ways(name):
            if found := known.get(asked):
                if len(found) > 1:
                    first, second = (self.bags[i].header.path for i in found[:2])
                    raise UserError(
                        f"{name} may be {first} or {second}; name the file as far as they differ, or give the folder "
                        "of one encoder"
                    )
                return self.bags[found[0]]
        return None

    def _ways(self, name: str) -> list[tuple[dict[str, list[int]], str]]:
        path = without_suffix(name.replace("\\", "/"))
        base = path.rpartition("/")[2]
        return [(self._exact, path), (self._exact, base), (self._short, base), (self._exact, cut(base))]


def cut(name: str) -> str:
    """A name up to its first dot and to "_files", as HistoBistro names slides."""
    return name.split(".")[0].split("_files")[0]


def without_suffix(name: str) -> str:
    """A name without the suffixes of feature files and of slides: x.svs.h5 is x."""
    while True:
        suffix = suffix_of(name)
        if suffix not in SUFFIXES and suffix not in SLIDE_SUFFIXES:
            return name
        name = name[: -len(suffix)]


def find_bags(folders: Sequence[str | os.PathLike]) -> BagFiles:
    """The bags of all feature files in these folders and below, or of these files.

    What cannot be read is listed, not raised: it may be of no patient who counts. Raises UserError if there is no
    feature file at all.
    """
    found = BagFiles()
    paths = [(root, path) for root in map(expanded, folders) for path in _files(root)]
    beside = {path.with_suffix("").name for _, path in paths if path.suffix.lower() not in TENSORS}
    for root, path in paths:
        if path.suffix.lower() in TENSORS and path.stem in beside:
            continue  # CLAM writes both; the .h5 has coordinates, too
        _read(found, root, path)
    if not paths:
        where = ", ".join(map(str, folders))
        raise UserError(f"{where}: no feature files ({', '.join(SUFFIXES)}) there or below; see histojax extract")
    return found


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"{root}: does not exist (looked in {Path.cwd()}); expected a folder of feature files")
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in NOT_FEATURES and not name.startswith("."))
        found += [Path(folder) / n for n in sorted(names) if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    return found


def _read(found: BagFiles, root: Path, path: Path) -> None:
    """Adds the bags of one file, or says why there are none."""
    inside = path.relative_to(root).as_posix() if path != root else path.name
    name = without_suffix(path.name)
    try:
        header = read_header(path)
        if header.group_kind:
            _add_groups(found, read_features(path))
            return
    except EmptyFile:
        found.empty.append((name, "an empty bag: its feature file has no tiles"))
        return
    except UserError as error:
        found.bad.append((name, str(error)))
        return
    if not header.tiles:
        found.empty.append((name, "an empty bag: its feature file has no tiles"))
        return
    names = [without_suffix(inside), path.stem]
    found.add(BagFile(name, header, header.tiles, lambda: _features(path), _augmented(path, header)), names)


def _add_groups(found: BagFiles, stored: StoredFeatures) -> None:
    """A bag a group; tiles of no group are listed."""
    assert stored.groups is not None
    names, inverse = np.unique(stored.groups, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(names)))
    for name, rows in zip(names.tolist(), np.split(order, ends[:-1])):
        if name:
            features = stored.features
            load = lambda rows=rows, features=features: np.asarray(features[rows], np.float32)  # noqa: E731
            found.add(BagFile(name, stored.header, len(rows), load), [])
        else:
            found.empty.append((stored.header.path.name, f"{len(rows)} tiles that say no {stored.header.group_kind}"))


def _features(path: Path) -> np.ndarray:
    return np.asarray(read_features(path).features, np.float32)


def _augmented(path: Path, header: Header) -> Callable[[np.random.Generator], np.ndarray] | None:
    """Reads one of the changed copies that a file has; None if it has none."""
    if header.kind != "histobistro":
        return None
    with opened(path) as file:
        if not any(name in file for name in AUGMENTED):
            return None

    def draw(rng: np.random.Generator) -> np.ndarray:
        copies = read_features(path).augmented
        assert copies is not None
        return np.asarray(copies[rng.integers(len(copies))], np.float32)

    return draw
