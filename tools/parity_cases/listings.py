"""Listings of published checkpoints: names, shapes and counts of tensors, without any weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

from histojax.common.errors import UserError
from histojax.evaluation.mil.models import abstract as head_shapes
from histojax.evaluation.mil.published import LAYOUTS, read_tree
from histojax.models.network import abstract, family, parameter_count
from histojax.weights.detect import the_layout
from histojax.weights.families import title
from histojax.weights.trees import flatten, ghost
from histojax.zoo.table import ENCODERS
from parity_cases.backbones import backbone_tensors
from parity_cases.check import Check, compare, failed, same, skipped
from parity_cases.golden import Folder, TableFile

# of published files, tensors that torch does not count as parameters
BUFFERS = (
    "*.num_batches_tracked", "*.running_mean", "*.running_var", "*.relative_position_index", "*.attn_mask",
    "*positional_encoding_gaussian_matrix", "*shared*embedding.positional_embedding", "*.text.mask",
    *(f"modality_postprocessors.{name}.1.log_logit_scale" for name in ("audio", "depth", "thermal", "imu")),
)  # fmt: skip


def cases(file: TableFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with "keys" ({tensor: [shape, dtype]}), or with several such entries; lists of counts for them."""
    entries = entries_of(file)
    if entries:
        file.used = True
    for name, entry in entries.items():
        yield f"keys/{name}", partial(_listing, f"keys/{name}", entry)
    if _is_summary(file.content):
        file.used = True
        yield file.name, partial(_summary, file, folder)


def entries_of(file: TableFile) -> dict[str, dict]:
    """Name: listing."""
    content = file.content
    if not isinstance(content, dict):
        return {}
    if isinstance(content.get("keys"), dict):
        return {file.name.split("/")[-1]: content}
    return {k: v for k, v in content.items() if isinstance(v, dict) and isinstance(v.get("keys"), dict)}


def _is_summary(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(e, dict) and "n_keys" in e for e in content)


def _summary(file: TableFile, folder: Folder) -> Iterator[Check]:
    """Counts that a list repeats are those of the listings themselves."""
    listed = {name: entry for table in folder.tables for name, entry in entries_of(table).items()}
    wrong = []
    for row in file.content:
        entry = listed.get(row["arch"], {"keys": {}})
        facts = {**entry, "n_keys": len(entry["keys"])}
        if any(facts.get(k) != row[k] for k in ("n_keys", "params", "groups") if k in row):
            wrong.append(row["arch"])
    yield same(file.name, f"{len(file.content)} rows as in the listings", wrong)


def _listing(name: str, entry: dict) -> Iterator[Check]:
    """Every tensor has its place or is known to be unwanted, and the counts of parameters are the listing's."""
    shapes = {key: tuple(shape) for key, (shape, _) in entry["keys"].items()}
    if _is_head(shapes):
        yield from _head(name, shapes, entry)
        return
    try:
        tensors = backbone_tensors({key: ghost(shape) for key, shape in shapes.items()})
        layout, _ = the_layout(tensors, file=name)
        _, report = layout.read(tensors, dtype=None)
    except UserError as error:
        yield failed(name, str(error))
        return
    what = f"{len(shapes)} names as {title(layout)}"
    yield same(name, what, [*report.problems, *report.missing, *report.unused])
    used, total = _count({key: tensors[key].shape for key in report.matched}), _count(shapes)
    yield compare(name, f"{total:,} parameters in the file", total, entry["params"])
    parts = entry.get("groups") or {}
    if parts:
        known = min((entry["params"], *parts.values()), key=lambda count: abs(count - used))
        yield compare(name, f"{used:,} parameters used of {entry['params']:,}", used, known)
    yield from _network(name, layout, tensors, used)


def _head(name: str, shapes: dict[str, tuple[int, ...]], entry: dict) -> Iterator[Check]:
    """The model of bags with these names, all of these shapes, and as many parameters."""
    if not any(layout.mark == key.removeprefix("model.") for layout in LAYOUTS for key in shapes):
        yield skipped(name, "no model of bags of ours has such names")
        return
    try:
        settings, _ = read_tree(name, {key: ghost(shape) for key, shape in shapes.items()}, dtype=None)
    except UserError as error:
        yield failed(name, str(error))
        return
    count = sum(math.prod(leaf.shape) for leaf in flatten(head_shapes(settings)[1]).values())
    what = f"{len(shapes)} names as the model {settings.model}: {count:,} parameters"
    yield compare(name, what, count, entry["params"])


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
