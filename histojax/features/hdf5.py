"""HDF5 files opened and written so that a broken one, or a full disk, is an error in one line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded, reason, replacing
from histojax.common.first_bytes import known_start

MAGIC = b"\x89HDF\r\n\x1a\n"
CHUNK_BYTES = 1 << 20
AGAIN = "delete it and extract or copy it again"
MOST = 64  # times the bytes of its file that a dataset may claim


class DamagedFile(UserError):
    """A file that was HDF5 once, or is empty."""

    @property
    def what(self) -> str:
        """The message without its advice."""
        return str(self).rpartition(";")[0]


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file for reading; whatever is wrong with it, on opening or within the block, is a UserError."""
    path = expanded(path)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); expected a feature file") from None
    if MAGIC.startswith(start) and start != MAGIC:
        what = f"truncated ({len(start)} bytes)" if start else "empty (0 bytes)"
        raise DamagedFile(f"{path}: {what}; {AGAIN}")
    if not start.startswith(MAGIC):
        what = known_start(start, "features", "an HDF5 file") or f"no HDF5 file (it starts with {start[:8]!r})"
        raise UserError(f"{path}: {what}; expected a feature file")
    try:
        # whole files never change under their name, and some network drives have no locks
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        raise DamagedFile(f"{path}: damaged or truncated ({said}); {AGAIN}") from None


def dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset by name, None if there is none; a link out of the file and a size that cannot be are UserErrors."""
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{file.filename}: {name} is a link to another place; give the file that holds it")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.external:
        raise UserError(f"{file.filename}: {name} is no dataset within the file")
    if found.nbytes > max(1 << 30, MOST * os.path.getsize(file.filename)):
        raise UserError(f"{file.filename}: {name} claims {found.nbytes} bytes, more than this file can hold")
    return found


def attributes(place: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a file or dataset as plain Python values, arrays as they are."""
    return {key: plain(value) for key, value in place.attrs.items()}


def plain(value: Any) -> Any:
    """Bytes as text, numpy scalars as Python ones."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def strings(data: h5py.Dataset) -> np.ndarray:
    """(n,) str of a dataset of texts."""
    return np.array([plain(value) for value in data[()].ravel()], str)


class _Sink(io.RawIOBase):
    """A file that keeps the first error of the operating system to itself, for HDF5.

    After a failed write of its own HDF5 cannot close the file, and takes the process down with it. Here it never
    learns of one; `write_hdf5` raises it when all is over.
    """

    def __init__(self, path: Path):
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self.error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        if self.error is None:
            return self.file.readinto(buffer) or 0
        memoryview(buffer).cast("B")[:] = bytes(len(memoryview(buffer).cast("B")))
        return len(buffer)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self.file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        return None  # nothing is buffered

    def close(self) -> None:
        self.file.close()
        super().close()


@contextlib.contextmanager
def written(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that appears under `path` when the block ends well, whole and fsynced.

    The same calls give the same bytes. Raises UserError where it cannot be written; then `path` is as it was.
    """
    with replacing(path) as temporary:
        sink = _Sink(temporary)
        try:
            with h5py.File(sink, "w", libver=("v108", "v108"), track_order=False) as file:
                yield file
        except (OSError, RuntimeError):
            if sink.error is None:
                raise
        finally:
            sink.close()
        if sink.error is not None:
            raise sink.error


def put(file: h5py.File, name: str, rows: Any, attrs: Mapping[str, Any], dtype: Any = None) -> None:
    """Writes an array with its attributes: checksummed chunks of about 1 MiB, block by block, without times."""
    dtype = np.dtype(dtype or rows.dtype)
    one = int(np.prod(rows.shape[1:])) * dtype.itemsize
    chunk = max(1, min(len(rows), CHUNK_BYTES // max(one, 1)))
    shape = (chunk, *rows.shape[1:])
    options: dict[str, Any] = dict(chunks=shape, fletcher32=True) if rows.size else {}
    data = file.create_dataset(name, rows.shape, dtype, track_times=False, **options)
    for start in range(0, len(rows) if rows.size else 0, chunk):
        data[start : start + chunk] = rows[start : start + chunk]
    for key, value in attrs.items():
        data.attrs[key] = value


def put_texts(file: h5py.File, name: str, texts: np.ndarray) -> None:
    """Writes (n,) str as UTF-8 of variable length."""
    kind = h5py.string_dtype("utf-8")
    values = np.array(
        [str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in texts], object
    )
    file.create_dataset(name, data=values, dtype=kind, track_times=False)
