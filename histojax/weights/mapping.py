"""Tensor names of PyTorch files <-> our parameter trees, by one table of rules that reads both ways.

A layout is a tuple of `TensorRule`s. The same tuple turns a flat dict of tensors into a nested dict of numpy
arrays (`to_tree`) and back (`from_tree`); nothing else needs to be written for an architecture::

    RULES = (
        TensorRule("cls_token", "cls_token"),
        TensorRule("blocks.{layer}.attn.qkv.weight", "blocks/attn/qkv/kernel", "linear"),
        TensorRule(("h.{layer}.q.bias", "0", "h.{layer}.v.bias"), "blocks/attn/qkv/bias"),  # a key without bias
        TensorRule("layer{stage}.{block}.conv1.weight", "stage{stage}/block{block}/conv1/kernel", "conv"),
    )

`{layer}` stacks the values of all layers on a leading axis, in numeric order, without gaps. Any other
placeholder stands for a number that is carried over from the name to the path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.report import Report, some
from histojax.weights.trees import flatten, ghost, is_ghost, shape_of, unflatten

ZERO = "0"  # a part of a concatenation that the file does not store
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Kind:
    """How one array changes between file and tree. `encode` None: the layout can be read, not written."""

    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray] | None


def patch_kind(channels: int = 3) -> Kind:
    """Kind of a square patch convolution: (D, C, p, p) <-> (p * p * C, D), rows ordered (p, p, C)."""

    def decode(array: np.ndarray) -> np.ndarray:
        if array.ndim != 4 or array.shape[1] != channels or array.shape[2] != array.shape[3]:
            raise ValueError(f"no convolution over square patches with {channels} input channels (RGB)")
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])

    def encode(array: np.ndarray) -> np.ndarray:
        side = math.isqrt(array.shape[0] // channels)
        return array.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)

    return Kind(decode, encode)


def _same(array: np.ndarray) -> np.ndarray:
    return array


KINDS: dict[str, Kind] = {
    "vector": Kind(_same, _same),
    "linear": Kind(np.transpose, np.transpose),  # (out, in) <-> (in, out)
    "conv": Kind(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),  # OIHW <-> HWIO
    "patch": patch_kind(3),
    "column": Kind(lambda a: a.reshape(a.shape[0]), lambda a: a[:, None]),  # weight_g (K, 1) <-> (K,)
}


@dataclass(frozen=True)
class TensorRule:
    """One leaf of the tree: its name in the file, its path in the tree, and the kind of change between them.

    Args:
        name: torch key template, or a tuple of templates whose tensors are concatenated along torch's first
            (output) axis in equal parts; "0" among them stands for zeros of a sibling's shape.
        path: tree path with "/" between the levels.
        kind: a key of `KINDS`, or a `Kind` of its own.
        optional: no complaint where the file has none of the tensors (mask_token, register_tokens, ...).
    """

    name: str | tuple[str, ...]
    path: str
    kind: str | Kind = "vector"
    optional: bool = False

    @cached_property
    def parts(self) -> tuple[str, ...]:
        return (self.name,) if isinstance(self.name, str) else tuple(self.name)

    @cached_property
    def stem(self) -> str:
        """The template up to its last placeholder: rules of one stem must exist for the same numbers."""
        first = next(part for part in self.parts if part != ZERO)
        return first[: first.rfind("}") + 1]

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.stem

    @property
    def codec(self) -> Kind:
        return self.kind if isinstance(self.kind, Kind) else KINDS[self.kind]


def to_tree(
    tensors: Mapping[str, Any],
    rules: Sequence[TensorRule],
    *,
    ignore: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
    skip: Callable[[str], bool] = lambda path: False,
    dtype: Any = np.float32,
) -> tuple[dict[str, Any], Report]:
    """Return (nested dict of numpy arrays, Report). Lazy tensors are read one at a time.

    Args:
        tensors: name -> array, or name -> object with `.shape` and `.numpy()` (see containers.LazyTensor).
        rules: the layout.
        ignore: shell patterns of names that are known and not wanted ("head.*").
        allow_missing: shell patterns of names whose absence is not reported.
        skip: true for tree paths that are not wanted; their tensors are not read, and reported as ignored.
        dtype: floating-point tensors are cast to it; None keeps what is stored. Integers stay. For `ghost`s, None.

    Missing tensors leave a hole in the tree: call `report.raise_if_bad(...)` before using it.
    """
    names = {name for name in tensors if not _any_match(name, ignore)}
    report = Report(ignored=sorted(set(tensors) - names))
    numbers = _numbers(names, rules)
    flat: dict[str, np.ndarray] = {}
    for rule in rules:
        for path, rows in _rows(rule, numbers):
            if skip(path):
                report.ignored += [name for row in rows for name in row if name in names]
                continue
            _read_leaf(flat, report, rule, path, rows, tensors, names, dtype)
    used = {*report.matched, *report.ignored}
    report.unused = sorted(names - used)
    report.missing = [name for name in report.missing if not _any_match(name, allow_missing)]
    return unflatten(flat), report


def from_tree(
    tree: Mapping[str, Any], rules: Sequence[TensorRule], *, drop: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return name -> array for the layout: the inverse of `to_tree`, bit for bit.

    Args:
        tree: nested dict of arrays.
        drop: shell patterns of tree paths for which the layout has no name ("mask_token").

    Raises:
        UserError: a leaf has no name in this layout, or a leaf the layout needs is not in the tree.
    """
    leaves = flatten(tree)
    out: dict[str, np.ndarray] = {}
    done: set[str] = set()
    for rule in rules:
        pattern = _pattern(rule.path)
        hits = [(path, match) for path in leaves if (match := pattern.fullmatch(path))]
        if not hits and not rule.optional:
            raise UserError(f"the tree has no {rule.path}, which this layout writes as {rule.parts[0]}")
        for path, match in hits:
            done.add(path)
            out.update(_write_leaf(rule, np.asarray(leaves[path]), match.groupdict()))
    left = [path for path in leaves if path not in done and not _any_match(path, drop)]
    if left:
        raise UserError(f"this layout has no name for {some(left)}")
    return out


def _pattern(template: str) -> re.Pattern[str]:
    """Regex of a template; a placeholder matches a plain decimal number."""
    pieces = _FIELD.split(template)
    text = "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>0|[1-9][0-9]*)" for i, p in enumerate(pieces))
    return re.compile(text)


def _numbers(names: set[str], rules: Sequence[TensorRule]) -> dict[str, dict[tuple[tuple[str, str], ...], int]]:
    """Return stem -> {values of the other placeholders: number of layers}, over the rules that share the stem."""
    found: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
    for rule in rules:
        group = found.setdefault(rule.stem, {} if rule.stem else {(): 1})
        for part in rule.parts if rule.stem else ():
            pattern = _pattern(part)
            for match in filter(None, map(pattern.fullmatch, names)):
                values = match.groupdict()
                layer = int(values.pop("layer", 0))
                if layer >= len(names):
                    raise UserError(
                        f"{match.string!r} has layer number {layer}, but there are {len(names)} tensors only"
                    )
                key = tuple(values.items())
                group[key] = max(group.get(key, 0), layer + 1)
    return found


def _rows(rule: TensorRule, numbers: Mapping[str, Mapping]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield (tree path, one list of part names per layer) for each value of the other placeholders."""
    groups = numbers[rule.stem]
    if not groups:  # nothing with this stem in the file: name the template itself
        yield rule.path, [[part for part in rule.parts if part != ZERO]]
    for key, depth in sorted(groups.items(), key=lambda item: [int(value) for _, value in item[0]]):
        values = dict(key)
        rows = [
            [part if part == ZERO else part.format(**values, layer=layer) for part in rule.parts]
            for layer in range(depth if rule.stacked else 1)
        ]
        yield rule.path.format(**values), rows


def _read_leaf(
    flat: dict[str, np.ndarray],
    report: Report,
    rule: TensorRule,
    path: str,
    rows: list[list[str]],
    tensors: Mapping[str, Any],
    names: set[str],
    dtype: Any,
) -> None:
    """Read one leaf into `flat[path]`, and note what was found in the report."""
    wanted = [name for row in rows for name in row if name != ZERO]
    present = [name for name in wanted if name in names]
    if rule.optional and not present:
        return
    if path in flat:
        report.problems.append(f"both {report.origin[path]} and {rule.parts[0]} are in the file, for the same {path}")
        return
    report.matched += present
    if len(present) < len(wanted):
        report.missing += [name for name in wanted if name not in names]
        return
    report.origin[path] = " + ".join(rule.parts if rule.stacked else rows[0])
    clash = _shape_clash(rows, tensors)
    if clash:
        report.problems.append(clash)
        return
    try:
        value = _stack(rule, rows, tensors, dtype, report)
    except (ValueError, IndexError) as error:  # axes that are not those of the kind
        report.problems.append(f"{present[0]} has shape {shape_of(tensors[present[0]])}: {error}")
        return
    flat[path], report.shapes[path] = value, value.shape


def _shape_clash(rows: list[list[str]], tensors: Mapping[str, Any]) -> str:
    """Return a complaint if the tensors that make one leaf differ in shape, else ""."""
    names = [name for row in rows for name in row if name != ZERO]
    first = shape_of(tensors[names[0]])
    for name in names[1:]:
        if shape_of(tensors[name]) != first:
            return f"{name} has shape {shape_of(tensors[name])} where {names[0]} has {first}"
    return ""


def _stack(
    rule: TensorRule, rows: list[list[str]], tensors: Mapping[str, Any], dtype: Any, report: Report
) -> np.ndarray:
    stacked: np.ndarray | None = None
    for layer, row in enumerate(rows):
        value = rule.codec.decode(_concatenate(row, tensors, dtype, report))
        if is_ghost(value):  # all layers have the same shape, see _shape_clash
            return np.empty((len(rows), *value.shape) if rule.stacked else value.shape, value.dtype)
        if not rule.stacked:
            return np.ascontiguousarray(value) if value.ndim else value
        if stacked is None:
            stacked = np.empty((len(rows), *value.shape), value.dtype)
        stacked[layer] = value
    assert stacked is not None
    return stacked


def _concatenate(row: list[str], tensors: Mapping[str, Any], dtype: Any, report: Report) -> np.ndarray:
    """Return the parts of a row as one array in torch's orientation."""
    arrays = {name: _cast(tensors[name], dtype, report) for name in row if name != ZERO}
    if len(row) == 1:
        return arrays[row[0]]
    sibling = next(iter(arrays.values()))
    if is_ghost(sibling):
        return ghost((len(row) * sibling.shape[0], *sibling.shape[1:]))
    return np.concatenate([np.zeros_like(sibling) if name == ZERO else arrays[name] for name in row])


def _cast(tensor: Any, dtype: Any, report: Report) -> np.ndarray:
    array = np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
    report.dtypes[str(array.dtype)] = report.dtypes.get(str(array.dtype), 0) + 1
    # kind V: bfloat16 and other ml_dtypes floats
    return array.astype(dtype, copy=False) if dtype is not None and array.dtype.kind in "fV" else array


def _write_leaf(rule: TensorRule, value: np.ndarray, values: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the torch tensors of one leaf."""
    encode = rule.codec.encode
    if encode is None:
        raise UserError(f"{rule.path} cannot be written in this layout: its tensor was folded when read")
    out: dict[str, np.ndarray] = {}
    for layer, one in enumerate(value if rule.stacked else [value]):
        pieces = np.split(np.ascontiguousarray(encode(one)), len(rule.parts)) if len(rule.parts) > 1 else [encode(one)]
        for part, piece in zip(rule.parts, pieces):
            if part != ZERO:
                out[part.format(**values, layer=layer)] = np.ascontiguousarray(piece).reshape(piece.shape)
            elif np.any(piece):
                raise UserError(
                    f"{rule.path}: this layout has no name for part {rule.parts.index(ZERO)}, but it is not zero"
                )
    return out


def _any_match(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
