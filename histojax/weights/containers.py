"""Torch-free reading of weight files: .pth (zip and the older format), safetensors, and shards of either.

Opening a file reads its directory only. A tensor's bytes are read when its `.numpy()` is called, so one tower of a
4.5 GB multi-modal file costs no more than that tower.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.pickle_reader import refuse_hostile
from histojax.weights.pickled_dicts import fill_from_pickle
from histojax.weights.strangers import HEAD, refuse_file, refuse_folder
from histojax.weights.tensors import SAFE_DTYPES, LazyTensor, Storage, TensorFile, row_major
from histojax.weights.torch_file import read_legacy, read_zip

_FOLDER_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def open_tensors(path: str | Path) -> TensorFile:
    """Return the tensors of a weight file, as stored and still in it, under their own names.

    Those in dicts of a pickle get the keys in front of their names: {"model": {"a": ...}} is "model/a".

    Args:
        path: a .pth / .pt / .bin / .ckpt / .torch / .safetensors file, an index of shards (*.index.json), or a
            folder that holds one of these.

    Raises:
        UserError: missing, truncated or unknown files, and those without tensors; what to do is said.
    """
    path = _file_of(Path(path))
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    file, root = _open(path)
    return file if root is None else fill_from_pickle(file, root)


def open_array(path: str | Path) -> np.ndarray:
    """Return the one array of a file that torch.save made of a bare tensor, or of a dict with the tensor `features`.

    Raises:
        UserError: as `open_tensors`, and for a file of several tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a .pt file")
    file, root = _open(path)
    if isinstance(root, LazyTensor):
        return root.numpy()
    if root is not None:
        file = fill_from_pickle(file, root)
    name = next((name for name in ("features", "feats") if name in file.tensors), next(iter(file.tensors), ""))
    if len(file.tensors) != 1 and name not in ("features", "feats"):
        raise UserError(f"{path}: holds {len(file.tensors)} tensors, expected the features of one slide")
    return file.tensors[name].numpy()


def check_whole(path: str | Path, name: str) -> None:
    """Raise UserError unless a file is whole, as far as its container tells without reading the tensors.

    Args:
        path: of the file, which may have a temporary name.
        name: its real name.
    """
    if name.endswith(".index.json"):
        shard_names(Path(path))
    else:
        _open(Path(path))


def _open(path: Path) -> tuple[TensorFile, Any]:
    """Return (file, object in the pickle); of a safetensors file, which has its tensors already, None."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEAD)
        refuse_file(path, head, size)
        if head[:4] == b"PK\x03\x04":
            return _with_root(TensorFile(path, "zip .pth", {}), lambda named: read_zip(path, size, named))
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
            return _open_safetensors(path, file, size), None
        if head[:1] == b"\x80":
            return _with_root(TensorFile(path, "legacy .pth", {}), lambda named: read_legacy(path, file, size, named))
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: not a whole safetensors file ({size} bytes); delete it and download it again")
    raise UserError(f"{path}: neither a PyTorch file nor safetensors (it starts with {head[:8]!r})")


def _with_root(file: TensorFile, read: Callable[[set[str]], Any]) -> tuple[TensorFile, Any]:
    root = read(file.named)
    try:
        refuse_hostile(file.named)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None
    return file, root


def _file_of(path: Path) -> Path:
    """Return the file to read: the path itself, or the one weight file of a folder."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give the path of a .pth or .safetensors file")
    if not path.is_dir():
        return path
    known = [path / name for name in _FOLDER_NAMES if (path / name).is_file()]
    if known:
        return known[0]
    found = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".torch"))
    if len(found) == 1:
        return found[0]
    refuse_folder(path)
    listing = ", ".join(p.name for p in found) or "none"
    raise UserError(f"{path}: expected one weight file in the folder, found {listing}; name the file itself")


# safetensors


def _open_safetensors(path: Path, file: BinaryIO, size: int) -> TensorFile:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size:
        raise UserError(
            f"{path}: truncated: its header needs {start} bytes, the file has {size}; delete it and download it again"
        )
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {}) or {}
        tensors = {name: _safe_tensor(path, name, entry, start, size) for name, entry in header.items()}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: the safetensors header is damaged ({error}); delete it and download it again"
        ) from None
    return TensorFile(path, "safetensors", tensors, metadata={key: str(value) for key, value in metadata.items()})


def _safe_tensor(path: Path, name: str, entry: Mapping[str, Any], start: int, size: int) -> LazyTensor:
    kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in SAFE_DTYPES:
        raise UserError(f"{path}: {name} has type {kind}, which is not supported")
    dtype = SAFE_DTYPES[kind]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise TypeError(f"{name} has shape {shape}")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise TypeError(f"{name} {kind} {shape} does not fit its {end - begin} bytes")
    if start + end > size:
        raise UserError(
            f"{path}: truncated: {name} ends at byte {start + end} of {size}; delete it and download it again"
        )
    storage = Storage(dtype, math.prod(shape), start + begin)
    return LazyTensor(shape, dtype, path, storage, 0, row_major(shape))


def shard_names(index: Path) -> tuple[dict[str, str], list[str]]:
    """Return ({tensor: its shard}, the shards) of an index (*.index.json); UserError if it is none."""
    try:
        shards = json.loads(index.read_text())["weight_map"]
        names = sorted(set(shards.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: not an index of shards (no weight_map); delete it and run again") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{index}: the index names files outside its folder: {names}")
    return shards, names


def _open_shards(path: Path) -> TensorFile:
    shards, names = shard_names(path)
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}; download them"
        )
    parts = {name: open_tensors(path.parent / name) for name in names}
    absent = [f"{name} (in {shard})" for name, shard in shards.items() if name not in parts[shard].tensors]
    if absent:
        raise UserError(f"{path}: the shards lack {len(absent)} tensors of the index: {', '.join(absent[:6])}")
    safe = all(part.container == "safetensors" for part in parts.values())
    tensors = {name: parts[shard].tensors[name] for name, shard in shards.items()}
    return TensorFile(path, "sharded safetensors" if safe else "sharded .bin", tensors)
