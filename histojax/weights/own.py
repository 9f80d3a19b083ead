"""Our own file: safetensors whose names are the paths of the parameter tree, the same for every family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from histojax.weights.detect import layouts_of
from histojax.weights.layouts import Layout
from histojax.weights.mapping import Report, flatten, unflatten

NAME, FAMILY = "histojax", "histojax_family"  # the layout's name; the key in the metadata that marks such a file


@dataclass(frozen=True)
class Own(Layout):
    """The layout without a table: every name is a path."""

    def read(
        self, tensors: Mapping[str, Any], *, dtype: Any = np.float32, expected: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], Report]:
        """Return (tree, Report); see Layout.read."""
        wanted = None if expected is None else set(flatten(expected))
        report = Report()
        flat: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            if wanted is not None and name not in wanted and any(fnmatchcase(name, p) for p in self.spare):
                report.ignored.append(name)
                continue
            array = np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
            report.dtypes[str(array.dtype)] = report.dtypes.get(str(array.dtype), 0) + 1
            flat[name] = array.astype(dtype, copy=False) if dtype and array.dtype.kind in "fV" else array
            report.matched.append(name)
        report.origin = {name: name for name in flat}
        report.shapes = {name: array.shape for name, array in flat.items()}
        return unflatten(flat), report

    def write(self, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the tensors of a tree."""
        return {name: np.ascontiguousarray(leaf) for name, leaf in flatten(tree).items()}


def layout_of(family: str) -> Own:
    """Return our own layout for a family."""
    spare = sorted({pattern for layout in layouts_of(family).values() for pattern in layout.spare})
    return Own(NAME, (), lambda names: "", family=family, spare=tuple(spare))
