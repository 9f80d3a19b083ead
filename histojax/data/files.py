"""Sources on a disk: image folders, CSV lists of images, zip archives."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from histojax.common.errors import UserError
from histojax.data.csv_list import read_list
from histojax.data.decode import read_checked
from histojax.data.formats import SUFFIXES
from histojax.data.records import EncodedTiles


class _Disk:
    """Plain files."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def load(self, index: int) -> bytes:
        with open(self.paths[index], "rb") as file:
            return read_checked(file, os.fstat(file.fileno()).st_size)

    def size(self, index: int) -> int:
        try:
            return os.stat(self.paths[index]).st_size
        except OSError:
            return -1


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
    """Images of a folder, sub-folders included; two or more direct sub-folders are the classes.

    A single sub-folder says nothing: it is entered, and where it has no sub-folders the tiles are unlabelled. An image
    beside the class folders has no label: it is trained on and not evaluated. Raises UserError if there is no image,
    or a folder that cannot be read.
    """
    names = sorted(name for name in _walk(path) if _is_image(name))
    if not names:
        raise UserError(f"{path}: no image in this folder or below; files ending in {', '.join(SUFFIXES)} are read")
    return EncodedTiles(str(path), names, _Disk([os.path.join(path, n) for n in names]), _class_names(names))


def open_zip(path: Path) -> EncodedTiles:
    """Images of a zip archive, labelled by its folders as in `open_folder`. Raises UserError if broken or empty."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted((m.filename, m.file_size) for m in archive.infolist() if _is_image(m.filename))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip archive ({error})") from None
    if not found:
        raise UserError(f"{path}: no image in this zip; members ending in {', '.join(SUFFIXES)} are read")
    names = [name for name, _ in found]
    return EncodedTiles(str(path), names, _Zip(str(path), names, [size for _, size in found]), _class_names(names))


def open_csv(path: Path) -> EncodedTiles:
    """Images listed in a CSV file with a header row: file, and perhaps label and patient; see csv_list.read_list.

    Files are relative to the CSV's folder. One that does not exist is a bad tile, found when it is read.
    """
    found = read_list(path)
    files = _Disk([os.path.join(path.parent, name) for name in found.names])
    return EncodedTiles(str(path.parent), found.names, files, found.labels, found.groups)


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths with / of all files. A link to a folder is followed directly below `folder`, not deeper."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield entry.name
                elif not _is_hidden(entry.name):
                    yield from _walk_deeper(entry.path, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: this folder cannot be read ({error.strerror}): correct its permissions "
            "(chmod u+rx) or move it away"
        ) from None


def _walk_deeper(start: str, folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(start, onerror=_fail):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inside = os.path.relpath(parent, folder).replace(os.sep, "/")
        yield from (f"{inside}/{name}" for name in files)


def _fail(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not any(_is_hidden(part) for part in name.split("/"))


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in ("__MACOSX", "lost+found")


def _class_names(names: Sequence[str]) -> list[str]:
    """First folder of each name; "" for an image beside the class folders, and for all if there are not two classes.

    A folder around all other folders is no class: it is skipped, with the images that lie directly in it.
    """
    folders = [name.split("/")[:-1] for name in names]
    while len({f[0] for f in folders if f}) == 1 and any(len(f) > 1 for f in folders):
        folders = [f[1:] for f in folders]
    found = [f[0] if f else "" for f in folders]
    return found if len(set(found) - {""}) > 1 else [""] * len(found)
