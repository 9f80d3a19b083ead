"""Golden weight files: tensors of every container against recorded values, and listings of published checkpoints."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from histojax.errors import UserError
from histojax.models.network import abstract, family, parameter_count
from histojax.models.table import ENCODERS
from histojax.weights.containers import read_tensors
from histojax.weights.detect import the_layout, title
from histojax.weights.mapping import flatten, ghost
from histojax.weights.unwrap import split_modules
from parity_cases.check import Check, compare, failed, skipped

WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".torch", ".safetensors")
# of published files, tensors that torch does not count as parameters
BUFFERS = (
    "*.num_batches_tracked", "*.running_mean", "*.running_var", "*.relative_position_index", "*.attn_mask",
    "*positional_encoding_gaussian_matrix", "*shared*embedding.positional_embedding", "*.text.mask",
    *(f"modality_postprocessors.{name}.1.log_logit_scale" for name in ("audio", "depth", "thermal", "imu")),
)  # fmt: skip


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Containers: an .npz whose arrays have the names of a file's tensors. Listings: .json(.gz) with "keys"."""
    for weights, arrays in expected_tensors(folder).items():
        yield weights.stem, partial(_container, weights, arrays)
    for name, entry in _listings(folder).items():
        yield f"keys/{name}", partial(_listing, f"keys/{name}", entry)


def expected_tensors(folder: Path) -> dict[Path, Path]:
    """Weight file: the .npz that holds its tensors, most of them at least."""
    recorded: dict[Path, set[str]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            recorded[path] = set(data.files)
    found = {}
    for path in sorted(p for p in folder.glob("*") if p.suffix in WEIGHTS):
        try:
            names = set(read_tensors(path).tensors)
        except UserError:
            continue  # whoever needs this file reports it
        owner = next(
            (arrays for arrays, known in recorded.items() if known and len(known & names) * 2 > len(known)), None
        )
        if owner is not None:
            found[path] = owner
    return found


def _container(weights: Path, arrays: Path) -> Iterator[Check]:
    """Bit for bit; a bfloat16 is recorded as the float32 of the same value."""
    tensors, name = read_tensors(weights).tensors, weights.name
    with np.load(arrays) as data:
        for key in data.files:
            if key not in tensors:
                yield failed(name, f"{key} is not in the file")
                continue
            ours, wanted = tensors[key].numpy(), data[key]
            same = ours.dtype == wanted.dtype or (str(ours.dtype), str(wanted.dtype)) == ("bfloat16", "float32")
            yield (
                compare(name, f"{key} {ours.dtype}", ours, wanted)
                if same
                else failed(name, f"{key} is {ours.dtype}, expected {wanted.dtype}")
            )
        extra = sorted(set(tensors) - set(data.files))
        yield compare(name, f"nothing else in it{': ' + ', '.join(extra) if extra else ''}", len(extra), 0)


def _listings(folder: Path) -> dict[str, dict]:
    """Name: {"keys": {tensor: [shape, dtype]}, "params": count, "groups": counts} of every listing."""
    found = {}
    for path in (*sorted(folder.glob("keys/*.json")), *sorted(folder.glob("*.json.gz"))):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text()
        content = json.loads(text)
        several = {path.stem: content} if isinstance(content, dict) and "keys" in content else content
        if isinstance(several, dict):
            found.update({k: v for k, v in several.items() if isinstance(v, dict) and "keys" in v})
    return found


def _listing(name: str, entry: dict) -> Iterator[Check]:
    """Every tensor has its place or is known to be unwanted, and the counts of parameters are the listing's."""
    shapes = {key: tuple(shape) for key, (shape, _) in entry["keys"].items()}
    if _is_head(shapes):
        yield skipped(name, "an MIL head: not covered yet")
        return
    try:
        tensors = split_modules({key: ghost(shape) for key, shape in shapes.items()})["backbone"]
        layout, _ = the_layout(tensors, file=name)
        _, report = layout.read(tensors, dtype=None)
    except UserError as error:
        yield failed(name, str(error))
        return
    faults = [*report.problems, *report.missing, *report.unused]
    what = f"{len(shapes)} names as {title(layout)}" + (": " + ", ".join(faults[:4]) if faults else "")
    yield compare(name, what, len(faults), 0)
    used, total = _count({key: tensors[key].shape for key in report.matched}), _count(shapes)
    yield compare(name, f"{total:,} parameters in the file", total, entry["params"])
    parts = entry.get("groups") or {}
    if parts:
        known = min((entry["params"], *parts.values()), key=lambda count: abs(count - used))
        yield compare(name, f"{used:,} parameters used of {entry['params']:,}", used, known)
    yield from _network(name, layout, tensors, used)


def _network(name: str, layout: Any, tensors: dict[str, Any], used: int) -> Iterator[Check]:
    """The encoders of the table whose parameters are those of the listing, and the count by the network itself."""
    fitting = []
    for record in _networks():
        if family(ENCODERS[record].network) != layout.family:
            continue
        expected = _shapes(record)
        try:
            _, report = layout.read(tensors, dtype=None, expected=expected)
        except UserError:
            continue
        wanted = {path: leaf.shape for path, leaf in flatten(expected).items() if path != "mask_token"}
        if wanted == {path: shape for path, shape in report.shapes.items() if path != "mask_token"}:
            fitting.append(record)
    if not fitting:
        yield skipped(name, "no encoder of the table has these shapes")
        return
    what = f"the network of {', '.join(fitting[:3])}" + (f" and {len(fitting) - 3} more" if len(fitting) > 3 else "")
    counts = {parameter_count(ENCODERS[record].network) for record in fitting}
    yield compare(name, f"{what}: {used:,} parameters", min(counts, key=lambda count: abs(count - used)), used)


@cache
def _networks() -> tuple[str, ...]:
    """One encoder of the table for each network."""
    return tuple({record.network: name for name, record in reversed(ENCODERS.items())}.values())


@cache
def _shapes(record: str) -> dict:
    return abstract(ENCODERS[record].network)[1]


def _is_head(shapes: dict[str, tuple[int, ...]]) -> bool:
    """No convolution or patch embedding for images: nothing with three input channels."""
    return not any(len(shape) >= 4 and shape[1] == 3 for shape in shapes.values())


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    counted = [name for name in shapes if not any(fnmatchcase(name, pattern) for pattern in BUFFERS)]
    return sum(math.prod(shapes[name]) for name in counted)
