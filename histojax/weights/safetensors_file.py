"""Writing safetensors so that the same tensors give the same bytes.

The safetensors library keeps the metadata in a hash table, so a file with two entries differs from run to run, and it
makes files that only their owner can read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from histojax.weights.tensors import SAFE_DTYPES

_CODES = {dtype.name: code for code, dtype in SAFE_DTYPES.items()}


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file that depends on the tensors, their order and `metadata` alone; wider numbers come first, so that
    all are aligned. OSError when the disk is full, ValueError for a dtype that the format does not know."""
    header: dict[str, dict] = {"__metadata__": dict(sorted((metadata or {}).items()))}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    end = 0
    for name, array in ordered:
        if array.dtype.name not in _CODES:
            raise ValueError(f"{name}: safetensors cannot hold {array.dtype}")
        begin, end = end, end + array.nbytes
        offsets = [begin, end]
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
