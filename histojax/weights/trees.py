"""Nested dicts of arrays, and arrays that have a shape and no content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a/b/c": leaf} of a nested dict."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested dict of {"a/b/c": leaf}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def ghost(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array that has a shape and no content: no memory, whatever its size."""
    return np.empty(shape, "V0")


def is_ghost(array: np.ndarray) -> bool:
    """Whether an array is a `ghost`, or a view of one."""
    return array.dtype.itemsize == 0


def shape_of(leaf: Any) -> tuple[int, ...]:
    """Return the shape of an array-like, or the tuple itself."""
    return tuple(leaf.shape) if hasattr(leaf, "shape") else tuple(leaf)
