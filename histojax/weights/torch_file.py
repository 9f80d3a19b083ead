"""The two containers of torch.save, read without torch: a zip archive, and the stream of pickles before it."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.pickle_reader import Placeholder, load_pickle
from histojax.weights.strangers import refuse_zip
from histojax.weights.tensors import STORAGE_DTYPES, TORCH_DTYPES, LazyTensor, Storage, span

MAX_PICKLE = 1 << 28  # bytes of the object description inside a .pth (its tensors are stored beside it)
# what zipfile raises on damaged files; ValueError: names that are not text, negative offsets
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError
)  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_zip(path: Path, size: int, named: set[str] | None = None) -> Any:
    """Return the object saved in a zip .pth, its tensors lazy; for `named` see pickle_reader.load_pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = _root_of(path, members)
            text = _member(path, archive, members[f"{root}data.pkl"])
            order = f"{root}byteorder"
            if order in members and archive.read(order) != b"little":
                raise UserError(f"{path}: saved on a big-endian machine, which is not supported")
    except UserError:
        raise
    except _ZIP_ERRORS as error:
        raise UserError(
            f"{path}: truncated or damaged zip ({error}; {size} bytes); delete it and download it again"
        ) from None
    locate = _ZipStorages(path, size, root, members)
    try:
        return load_pickle(io.BytesIO(text), len(text), locate, _tensor_factory(path, size), named)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _root_of(path: Path, members: Mapping[str, Any]) -> str:
    """Return the folder inside the archive, with its slash: the file stem in recent torch, "archive" before."""
    refuse_zip(path, members)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path}: damaged: {len(pickles)} files called data.pkl inside")
    return pickles[0][: -len("data.pkl")]


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_PICKLE:
        raise UserError(f"{path}: {info.filename} claims {info.file_size} bytes, more than any weight file needs")
    with archive.open(info) as member:
        return member.read(MAX_PICKLE)


@dataclass
class _ZipStorages:
    """Finds the storage of a persistent id ('storage', class, key, location, count) in the archive."""

    path: Path
    size: int
    root: str
    members: Mapping[str, zipfile.ZipInfo]
    found: dict[str, Storage] = field(default_factory=dict)

    def __call__(self, pid: Any) -> Storage:
        key, dtype, count = _storage_id(pid)
        if key in self.found:
            return self.found[key]
        info = self.members.get(f"{self.root}data/{key}")
        if info is None:
            raise UserError(f"storage {key} is missing in the archive; delete the file and download it again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError("the archive is compressed, PyTorch's never are; unpack and save it again with torch.save")
        start = self._start(info)
        if count * dtype.itemsize > info.file_size or start + info.file_size > self.size:
            raise UserError(
                f"storage {key} is shorter than its {count} elements; delete the file and download it again"
            )
        return self.found.setdefault(key, Storage(dtype, count, start))

    def _start(self, info: zipfile.ZipInfo) -> int:
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
        if local[:4] != b"PK\x03\x04":
            raise UserError("truncated or damaged zip; delete the file and download it again")
        return info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def read_legacy(path: Path, file: BinaryIO, size: int, named: set[str] | None = None) -> Any:
    """Return the object of a .pth from before PyTorch 1.6: pickles one behind the other, then the storages."""
    file.seek(0)
    storages: dict[str, Storage] = {}
    try:
        if load_pickle(file, size) != _LEGACY_MAGIC:
            raise UserError("a plain pickle, not a PyTorch file; save the state dict with torch.save")
        load_pickle(file, size)  # protocol
        info = load_pickle(file, size)
        if isinstance(info, dict) and info.get("little_endian") is False:
            raise UserError("saved on a big-endian machine, which is not supported")
        root = load_pickle(file, size, _legacy_storages(storages), _tensor_factory(path, size), named)
        keys = load_pickle(file, size)
        _place_storages(file, size, keys, storages)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return root


def _legacy_storages(storages: dict[str, Storage]) -> Any:
    def find(pid: Any) -> Storage:
        key, dtype, count = _storage_id(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise UserError(
                "views of storages as PyTorch 0.3 wrote them are not supported; save it again with torch.save"
            )
        return storages.setdefault(key, Storage(dtype, count))

    return find


def _place_storages(file: BinaryIO, size: int, keys: Any, storages: Mapping[str, Storage]) -> None:
    """Set the position of each storage: an int64 count and the raw elements, in the order of the keys."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError("damaged list of storages")
    for key in keys:
        data = file.read(8)
        if len(data) < 8:
            raise UserError(f"truncated: {size} bytes end before storage {key}; delete it and download it again")
        count = int.from_bytes(data, "little")
        storage = storages.get(key)
        if storage is None or count != storage.count:
            raise UserError(f"storage {key} has {count} elements, expected {storage and storage.count}: damaged file")
        storage.start = file.tell()
        end = storage.start + count * storage.dtype.itemsize
        if end > size:
            raise UserError(
                f"truncated: storage {key} ends at byte {end}, the file has {size}; delete it and download it again"
            )
        file.seek(end)
    lost = [key for key, storage in storages.items() if storage.start < 0]
    if lost:
        raise UserError(f"truncated: {len(lost)} storages are not in the file; delete it and download it again")


def _storage_id(pid: Any) -> tuple[str, np.dtype, int]:
    """Return (key, dtype, element count) of torch's persistent id."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise UserError(f"unknown persistent id {str(pid)[:60]}")
    kind, key, count = getattr(pid[1], "name", ""), pid[2], pid[4]
    name = kind.rsplit(".", 1)[-1].removesuffix("Storage")
    dtype = np.uint8 if name == "Untyped" else STORAGE_DTYPES.get(name)
    if dtype is None or not isinstance(key, str) or not isinstance(count, int) or not 0 <= count < 1 << 48:
        raise UserError(f"unknown storage {kind} {str(key)[:40]} with {str(count)[:40]} elements")
    return key, np.dtype(dtype), count


def _tensor_factory(path: Path, file_size: int) -> Any:
    """Return the function that makes a LazyTensor from torch's (storage, offset, size, stride, dtype name)."""
    limit = max(64 << 20, 4 * file_size)  # an expanded view may not claim more bytes than this

    def make(storage: Any, offset: Any, shape: Any, strides: Any, dtype_name: str | None) -> Any:
        if not isinstance(storage, Storage):
            return Placeholder("tensor without storage")
        dtype = storage.dtype
        if dtype_name is not None:
            known = TORCH_DTYPES.get(dtype_name.rsplit(".", 1)[-1])
            if known is None:
                raise UserError(f"a tensor has type {dtype_name[:40]}, which is not supported")
            dtype = known
        numbers = [offset, *shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [-1]
        if len(numbers) != 1 + 2 * len(shape) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise UserError(f"a tensor has shape {str(shape)[:60]} and strides {str(strides)[:60]}")
        if len(shape) > 32 or math.prod(shape) * dtype.itemsize > limit:
            raise UserError(f"a tensor claims shape {str(shape)[:60]}, too large for this file")
        room = storage.count * storage.dtype.itemsize
        if 0 not in shape and (offset + span(shape, strides)) * dtype.itemsize > room:
            raise UserError(f"a tensor of shape {shape} reaches past its storage; the file is damaged")
        return LazyTensor(tuple(shape), dtype, path, storage, offset, tuple(strides))

    return make
