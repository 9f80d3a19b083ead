"""From the object in a PyTorch file, dicts in dicts, to tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.pickle_reader import Placeholder, numpy_value
from histojax.weights.strangers import refuse_deepspeed, refuse_objects
from histojax.weights.tensors import Array, LazyTensor, TensorFile

_DEEP = 8  # levels of dicts and lists that are looked at
_WIDTH = 32  # characters of a value in notes


def fill_from_pickle(file: TensorFile, root: Any) -> TensorFile:
    """Return the file with the tensors of its object under "key/key/name", and what else is there in `other`.

    Raises:
        UserError: no tensors, only parts of them, or a whole pickled model.
    """
    strange: list[Any] = [root]
    for path, value in _leaves(root):
        if isinstance(value, LazyTensor):
            file.tensors[path] = value
        elif (array := numpy_value(value)) is not None and array.ndim:
            file.tensors[path] = Array(array)
        else:
            file.other[path[:80]] = _describe(value)
            strange.append(value)
    refuse_objects(file.path, (value for value in strange if isinstance(value, Placeholder)))
    if all(0 in tensor.shape for tensor in file.tensors.values()):
        refuse_deepspeed(file.path, root)
    if not file.tensors:
        raise UserError(f"{file.path}: {_no_tensors(root, file.other)}")
    return file


def _leaves(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of what is in dicts in dicts; a dict that is there several times counts once."""
    level: list[tuple[str, Any]] = [("", root)] if isinstance(root, dict) else []
    seen: set[int] = set()
    for _ in range(_DEEP):
        inner = []
        for path, node in level:
            if id(node) in seen:
                continue
            seen.add(id(node))
            for key, value in node.items():
                if isinstance(key, (str, int)):
                    name = f"{path}{key}"
                    if isinstance(value, dict) and value:
                        inner.append((f"{name}/", value))
                    else:
                        yield name, value
        level = inner


def _describe(value: Any) -> str:
    if isinstance(value, (str, int, float, bool, type(None), Placeholder)):
        return repr(value)[:_WIDTH]
    count = _tensors_in(value)
    return f"{count} tensors" if count else type(value).__name__


def _tensors_in(node: Any) -> int:
    """Return the number of tensors in lists in lists; one that is there several times counts once."""
    level, seen, count = [node], set(), 0
    for _ in range(_DEEP):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, (dict, list, tuple)) and id(one) not in seen:
                seen.add(id(one))
                inner += one.values() if isinstance(one, dict) else one
            count += isinstance(one, LazyTensor)
        level = inner
    return count


def _no_tensors(root: Any, other: Mapping[str, str]) -> str:
    whole = [root, *root.values()] if isinstance(root, dict) else [root]
    for value in whole:
        if isinstance(value, Placeholder) and (value.state is not None or value is root):
            return (
                f"holds a whole pickled {value.name} object, not a dict of tensors; in PyTorch, load it and save "
                "model.state_dict()"
            )
    if lists := [f"{key} ({what})" for key, what in other.items() if what.endswith(" tensors")]:
        return f"its tensors are in lists, without names: {', '.join(lists[:8])}; save a state_dict()"
    keys = ", ".join(str(key)[:40] for key in list(root)[:8]) if isinstance(root, dict) else type(root).__name__
    return f"no tensors found (top level: {keys})"
