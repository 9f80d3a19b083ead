"""Sources on a disk: image folders, CSV lists of images, zip archives."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from histojax.data.csv_list import read_list
from histojax.data.decode import read_checked
from histojax.data.find import Found, find_in_folder, find_in_zip
from histojax.data.layout import read_layout
from histojax.data.tiles import EncodedTiles, Facts, Files


class _Disk:
    """Plain files."""

    def __init__(self, root: str, names: Sequence[str], sizes: Sequence[int]):
        self.root, self.names, self.sizes = root, names, sizes

    def load(self, index: int) -> bytes:
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            return read_checked(file, os.fstat(file.fileno()).st_size)

    def size(self, index: int) -> int:
        return self.sizes[index]


class _Zip:
    """Members of a zip, opened at a process's first read. ZipFile locks its seeks, so threads may share it."""

    def __init__(self, path: str, members: Sequence[str], sizes: Sequence[int]):
        self.path, self.members, self.sizes = path, members, sizes
        self._archive: zipfile.ZipFile | None = None
        self._lock = threading.Lock()

    def load(self, index: int) -> bytes:
        if self._archive is None:
            with self._lock:
                if self._archive is None:
                    self._archive = zipfile.ZipFile(self.path)
        with self._archive.open(self.members[index]) as file:
            return read_checked(file, self.sizes[index])  # type: ignore[arg-type]

    def size(self, index: int) -> int:
        return self.sizes[index]

    def __getstate__(self) -> dict:
        return dict(path=self.path, members=self.members, sizes=self.sizes)

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]


def open_folder(path: Path) -> EncodedTiles:
    """Images of a folder, sub-folders included, labelled by them as `layout` says; raises UserError without one."""
    return _by_folders(path, find_in_folder(path), lambda found: _Disk(str(path), found.names, found.sizes))


def open_zip(path: Path) -> EncodedTiles:
    """Images of a zip archive, labelled by its folders as in `open_folder`. Raises UserError if broken or empty."""
    found = find_in_zip(path)
    members = [found.members[name] for name in found.names]
    return _by_folders(path, found, lambda found: _Zip(str(path), members, found.sizes))


def open_csv(path: Path) -> EncodedTiles:
    """Images listed in a table with a header row: file, and perhaps label and patient; see csv_list.read_list.

    One that does not exist is a bad tile, found when it is read.
    """
    table = read_list(path)
    found = table.found
    facts = _facts(path, found, table.notes, table.group_kind)
    files = _Disk(str(table.root), found.names, found.sizes)
    return EncodedTiles(str(table.root), found.names, files, table.labels, table.groups, facts=facts)


def _by_folders(path: Path, found: Found, files: Callable[[Found], Files]) -> EncodedTiles:
    layout = read_layout(found.names)
    facts = _facts(path, found, layout.notes, layout.kind)
    return EncodedTiles(str(path), found.names, files(found), layout.classes, layout.groups, facts=facts)


def _facts(path: Path, found: Found, notes: Sequence[str], group_kind: str) -> Facts:
    left_out = tuple((os.path.join(path, name), reason) for name, reason in found.left_out)
    return Facts(found.summary(), tuple(f"{path}: {note}" for note in notes), left_out, group_kind)
