"""A golden folder: its files, read when they are needed, and which of their arrays a comparison has read."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from histojax.weights.containers import open_tensors
from histojax.weights.search import whole_level
from parity_cases.check import Check, failed, skipped

WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".torch", ".safetensors")
META = "meta_json"
_NOT_DATA = ("README", "LICENSE", "LICENCE", "CHANGELOG", ".")


class File:
    """A file of a golden folder.

    Args:
        folder: the golden folder.
        path: the file, in the folder or in one of its sub-folders.
    """

    def __init__(self, folder: Path, path: Path):
        self.path, self.shown = path, path.relative_to(folder).as_posix()
        shown = self.shown.removesuffix(".gz")
        self.name = shown.removesuffix(Path(shown).suffix)  # as `shown`, without the ending
        self.reasons: dict[str, str] = {}  # why parts of it are not compared

    def left(self) -> Iterator[Check]:
        """What no comparison has read."""
        yield skipped(self.shown, "not compared: no comparison knows such a file")

    def summary(self) -> dict[str, Any]:
        """For the certificate."""
        return {"sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}


class ArrayFile(File):
    """An .npz: `arrays` of it, and `meta`, the JSON text that it holds about itself."""

    def __init__(self, folder: Path, path: Path):
        super().__init__(folder, path)
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz: no whole zip archive")
        self._data = np.load(path)
        self._loaded: dict[str, np.ndarray] = {}
        self.read: set[str] = set()
        self.names = [n for n in self._data.files if n != META]
        self.meta: dict[str, Any] = json.loads(str(self._data[META])) if META in self._data else {}

    @property
    def arrays(self) -> Arrays:
        return Arrays(self)

    def load(self, name: str) -> np.ndarray:
        if name not in self._loaded:
            try:
                self._loaded[name] = self._data[name]
            except Exception as error:
                raise ValueError(f"{self.shown}: {name} cannot be read: {error}") from error
        return self._loaded[name]

    def left(self) -> Iterator[Check]:
        unread = self.unread()
        for reason in dict.fromkeys(unread.values()):
            names = [n for n in unread if unread[n] == reason]
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            why = f" ({reason})" if reason else ""
            yield skipped(self.shown, f"{len(names)} arrays not compared{why}: {shown}", len(names))

    def unread(self) -> dict[str, str]:
        """Name: reason, of the arrays that no comparison has read."""
        return {n: self.reasons.get(n, "") for n in self.names if n not in self.read}

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "arrays": len(self.names), "not_compared": self.unread()}


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a file whose names begin with a prefix, by the rest of the name. Reading one marks it as used."""

    def __init__(self, file: ArrayFile, prefix: str = ""):
        self.file, self.prefix = file, prefix

    def __getitem__(self, name: str) -> np.ndarray:
        value = self.peek(name)
        self.file.read.add(self.prefix + name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (n[len(self.prefix) :] for n in self.file.names if n.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return self.prefix + str(name) in self.file.names

    def peek(self, name: str) -> np.ndarray:
        """The array, without marking it."""
        if name not in self:
            raise KeyError(f"{self.file.shown} has no {self.prefix}{name}")
        return self.file.load(self.prefix + name)

    def below(self, prefix: str) -> Arrays:
        """Those whose name begins with `prefix` too."""
        return Arrays(self.file, self.prefix + prefix)

    def aside(self, names: Iterable[str], reason: str) -> None:
        """Say why these are not compared."""
        self.file.reasons.update({self.prefix + name: reason for name in names})


class TableFile(File):
    """A .json or .json.gz; `used` is set by whoever compares it or takes something from it."""

    def __init__(self, folder: Path, path: Path):
        super().__init__(folder, path)
        raw = path.read_bytes()
        self.content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        self.used = False

    def left(self) -> Iterator[Check]:
        if not self.used:
            why = self.reasons.get("", "nothing in it is known to any comparison")
            yield skipped(self.shown, f"not compared: {why}")


class WeightFile(File):
    """A file of tensors."""

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The tensors of the fullest dict in the file, by their names there."""
        found = open_tensors(self.path).tensors
        level = whole_level(found)
        return {name: found[level.prefix + name] for name in level.names}

    def left(self) -> Iterator[Check]:
        return iter(())  # parity_cases.containers says what is made of each


class FeatureFile(File):
    """Features or coordinates of tiles; `used` is set by whoever compares it."""

    used = False

    def left(self) -> Iterator[Check]:
        if not self.used:
            yield from super().left()


class Folder:
    """All files of a golden folder; what cannot be opened becomes a line in `faults`.

    Args:
        path: the folder.
        given: a weight file that lies elsewhere, for networks too large for a golden folder.
    """

    def __init__(self, path: Path, given: Path | None = None):
        self.path, self.given = path, given
        self.arrays: list[ArrayFile] = []
        self.tables: list[TableFile] = []
        self.weights: list[WeightFile] = []
        self.features: list[FeatureFile] = []
        self.others: list[File] = []
        self.faults: list[Check] = []
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            if not file.name.startswith(_NOT_DATA):
                self._open(file)

    @property
    def files(self) -> list[File]:
        return [*self.arrays, *self.tables, *self.weights, *self.features, *self.others]

    def left(self, only: str) -> Iterator[Check]:
        """What was read by no comparison, of files whose name contains `only`."""
        for file in self.files:
            if only in file.name:
                yield from file.left()

    def named(self, names: Iterable[str]) -> Iterator[ArrayFile]:
        """The array files that hold one of these arrays."""
        wanted = set(names)
        return (f for f in self.arrays if wanted & set(f.names))

    def _open(self, path: Path) -> None:
        top = path.parent == self.path
        try:
            if path.suffix == ".npz" and top:
                self.arrays.append(ArrayFile(self.path, path))
            elif path.name.endswith((".json", ".json.gz")):
                self.tables.append(TableFile(self.path, path))
            elif path.suffix == ".h5" or (path.suffix == ".pt" and path.with_suffix(".h5").exists()):
                self.features.append(FeatureFile(self.path, path))
            elif path.suffix in WEIGHTS and top:
                opened = WeightFile(self.path, path)
                _ = opened.tensors
                self.weights.append(opened)
            else:
                self.others.append(File(self.path, path))
        except Exception as error:  # whatever is wrong with one file, the others are compared
            self.others.append(_Broken(self.path, path))
            self.faults.append(failed(self.others[-1].shown, f"cannot be read: {type(error).__name__}: {error}"))


class _Broken(File):
    """A file that could not be opened, which a line of its own says."""

    def left(self) -> Iterator[Check]:
        return iter(())
