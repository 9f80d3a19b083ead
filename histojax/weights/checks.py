"""Whether a tree is one network, fully known: shapes that agree with each other, numbers that were trained.

A layout tells where tensors belong by their names alone. What names cannot tell is told here, before anything is
computed from a file or written anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_NORM, _BATCH = "(?:scale|bias)", "(?:scale|bias|mean|var)"
# Path in the tree: its shape. Letters are sizes that must be the same wherever they stand; "_" is any size, "P" the
# pixels of a square patch, three colours each. {s} and {b} are the numbers in the path.
_BLOCK = {
    f"norm[12]/{_NORM}": "D{s}",
    "attn/qkv/kernel": "D{s} 3*D{s}",
    "attn/qkv/bias": "3*D{s}",
    "attn/proj/kernel": "D{s} D{s}",
    "attn/proj/bias": "D{s}",
    "ls[12]/gamma": "D{s}",
    "mlp/(?:fc1|gate|up)/kernel": "D{s} H{s}",
    "mlp/(?:fc1|gate|up)/bias": "H{s}",
    "mlp/w12/kernel": "D{s} 2*H{s}",
    "mlp/w12/bias": "2*H{s}",
    "mlp/(?:fc2|w3|down)/kernel": "H{s} D{s}",
    "mlp/(?:fc2|w3|down)/bias": "D{s}",
}
_STAGE, _LAYER = r"stage(?P<s>\d+)", r"layer(?P<s>\d+)/block(?P<b>\d+)"
_SHAPES = {
    **{f"blocks/{path}": f"L {shape}" for path, shape in _BLOCK.items()},
    **{rf"{_STAGE}/blocks/block\d+/{path}": shape for path, shape in _BLOCK.items()},
    "cls_token": "1 1 D",
    "mask_token": "1 D",
    "register_tokens": "1 _ D",
    "patch_embed/kernel": "P D",
    "patch_embed/bias": "D",
    f"(?:norm|fc_norm|pre_norm)/{_NORM}": "D",
    "head/kernel": "D _",
    "shared_rel_pos": "_ A",
    "layer_rel_pos": "L _ A",
    r"rel_pos/block(?P<b>\d+)/[hw]": "R{b} C",
    "neck/conv1/kernel": "1 1 D N",
    f"neck/norm[12]/{_NORM}": "N",
    "neck/conv2/kernel": "3 3 N N",
    # Swin
    f"stem/norm/{_NORM}": "D0",
    "stem/proj/kernel": "P D0",
    "stem/proj/bias": "D0",
    "stem/conv1/kernel": "_ _ 3 S1",
    "stem/conv2/kernel": "_ _ S1 S2",
    "stem/conv3/kernel": "_ _ S2 D0",
    "stem/conv3/bias": "D0",
    rf"stem/bn(?P<s>\d)/{_BATCH}": "S{s}",
    rf"{_STAGE}/blocks/block\d+/rel_pos": "_ A{s}",
    rf"{_STAGE}/downsample/norm/{_NORM}": "4*D{s}",
    rf"{_STAGE}/downsample/reduction/kernel": "4*D{s} D{next}",
    # ResNet
    "conv1/kernel": "_ _ 3 O0",
    f"bn1/{_BATCH}": "O0",
    f"{_LAYER}/conv1/kernel": "1 1 O{before} W{s}",
    f"{_LAYER}/bn[12]/{_BATCH}": "W{s}",
    f"{_LAYER}/conv2/kernel": "_ _ W{s} W{s}",
    f"{_LAYER}/conv3/kernel": "1 1 W{s} O{s}",
    f"{_LAYER}/(?:bn3|downsample_bn)/{_BATCH}": "O{s}",
    f"{_LAYER}/downsample/kernel": "1 1 O{before} O{s}",
    "fc/bias": "K",
}
_COMPILED = [(re.compile(path), shape) for path, shape in _SHAPES.items()]


def shape_faults(shapes: Mapping[str, tuple[int, ...]], origin: Mapping[str, str]) -> list[str]:
    """Return a complaint for the first leaf whose shape does not go with the others, [] if all agree.

    Args:
        shapes: by tree path.
        origin: names in the file, by tree path.
    """
    sizes: dict[str, tuple[int, str]] = {}  # of a letter: its size, and the path that told it
    for path, shape in shapes.items():
        wanted = _expected(path, shapes)
        name = origin.get(path, path)
        if wanted is None:
            continue
        if 0 in shape:
            return [f"{name} is empty, its shape is {shape}"]
        if len(wanted) != len(shape):
            return [f"{name} has shape {shape} as {path}, which needs {len(wanted)} axes"]
        for size, letters in zip(shape, wanted):
            if letters == "P" and 3 * math.isqrt(size // 3) ** 2 != size:
                return [f"{name} has {size} values a patch, which are no square of three colours"]
            if problem := _clash(sizes, size, letters, path):
                other = f"every network's {letters}" if problem == letters else origin.get(problem, problem)
                return [f"{name} has shape {shape} as {path}, which does not go with {other}"]
    return []


def value_faults(tree: Mapping[str, Any], origin: Mapping[str, str]) -> list[str]:
    """Return complaints about the numbers of a tree, {path: array}: NaN, infinite, of another type, or all the same.

    Nothing trained has a kernel whose numbers are all the same, nor a negative variance.
    """
    faults = []
    for path, leaf in tree.items():
        name = origin.get(path, path)
        if leaf.dtype.kind != "f":
            faults.append(f"{name} is stored as {leaf.dtype}, not as floating point (quantised weights are not read)")
            continue
        rows = leaf.reshape(len(leaf), -1) if "{layer}" in name else leaf.reshape(1, -1)
        low, high = (rows.min(1), rows.max(1)) if rows.size else (np.zeros(1), np.ones(1))  # a buffer may be empty
        for kind, bad in _bad_rows(path, rows, low, high):
            layer = int(np.argmax(bad))
            faults.append(f"{name.format(layer=layer)} {kind.format(value=low[layer])}")
            break
    return faults


def _bad_rows(path: str, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what is wrong with a leaf and in which of its rows."""
    last = path.rpartition("/")[2]
    with np.errstate(invalid="ignore"):
        tests = [("has NaN", np.isnan(low)), ("has infinite numbers", np.isinf(low) | np.isinf(high))]
        if last in ("kernel", "v") and rows.shape[1] > 1:
            tests.append(("is {value:g} everywhere: it was never trained, or is damaged", low == high))
        if last == "var":
            tests.append(("has a negative variance", low < 0))
    yield from ((kind, bad) for kind, bad in tests if bad.any())


def _expected(path: str, shapes: Mapping[str, Any]) -> list[str] | None:
    """Return the sizes of a leaf in letters and numbers, None of one that nothing is known of."""
    if path in ("norm/scale", "norm/bias") and "stem/norm/scale" in shapes:  # Swin: as wide as its last stage
        last = sum(1 for number in range(9) if f"stage{number}/blocks/block0/norm1/scale" in shapes) - 1
        return [f"D{last}"]
    if path == "pos_embed":
        return ["1", "_", "D"] if len(shapes[path]) == 3 else ["1", "G", "G", "D"]
    if path == "fc/kernel":
        return [f"O{max(int(p[5]) for p in shapes if p.startswith('layer'))}", "K"]
    for pattern, shape in _COMPILED:
        if match := pattern.fullmatch(path):
            stage, block = (int(match.groupdict().get(key) or 0) for key in "sb")
            numbers = {"next": stage + 1, "before": stage if block else stage - 1}
            given = {key: match.groupdict().get(key) or "" for key in "sb"}
            return shape.format(**numbers, **given).split()
    return None


def _clash(sizes: dict[str, tuple[int, str]], size: int, letters: str, path: str) -> str:
    """Return the path that asks for another size, or the letters if a number stands there; "" if it is right."""
    if letters in ("_", "P"):
        return ""
    if letters.isdecimal():
        return "" if size == int(letters) else letters
    factor, _, letter = letters.rpartition("*")
    known, teller = sizes.setdefault(letter, (size // int(factor or 1), path))
    return "" if size == known * int(factor or 1) else teller if teller != path else letters
