"""Our own file: safetensors whose names are the paths of the parameter tree, the same for every family."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from histojax.weights.families import layouts_of
from histojax.weights.layouts import Layout
from histojax.weights.mapping import TensorRule, to_tree
from histojax.weights.report import Report
from histojax.weights.trees import flatten, ghost

NAME, FAMILY = "histojax", "histojax_family"  # the layout's name; the key in the metadata that marks such a file
_NAMES = "histojax_tensors"  # the key in the metadata under which all names stand


@dataclasses.dataclass(frozen=True)
class Own(Layout):
    """The layout whose names are paths; `names` are those that its file was written with, () if it does not say."""

    names: tuple[str, ...] = ()

    def read(
        self, tensors: Mapping[str, Any], *, dtype: Any = np.float32, expected: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], Report]:
        """Return (tree, Report); see Layout.read."""
        form = _nearest(self.family, tensors)
        plain = dataclasses.replace(form, rules=_paths(form), spare=self.spare, ignore=(), after_read=_same)
        tree, report = plain.read(tensors, dtype=dtype, expected=expected)
        report.missing += [name for name in self.names if name not in {*tensors, *report.missing}]
        if self.names:
            report.unused = sorted({*report.unused, *(name for name in tensors if name not in self.names)})
        return tree, report

    def write(self, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the tensors of a tree."""
        return {name: np.ascontiguousarray(leaf) for name, leaf in flatten(tree).items()}


def layout_of(family: str, names: tuple[str, ...] = ()) -> Own:
    """Return our own layout for a family."""
    spare = sorted({pattern for layout in layouts_of(family).values() for pattern in layout.spare})
    return Own(NAME, (), lambda names: "", family=family, spare=tuple(spare), names=names)


def metadata_of(family: str, names: Iterable[str]) -> dict[str, str]:
    """Return what the header of our own file says: the family, and every name, so that a lost tensor is noticed."""
    return {FAMILY: family, _NAMES: " ".join(names)}


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that a header lists, () if it has no list."""
    return tuple(metadata.get(_NAMES, "").split())


def _nearest(family: str, names: Iterable[str]) -> Layout:
    """Return the layout of the family whose paths fit best: they differ in optional parts (gates, stems)."""
    ghosts = {name: ghost((1,)) for name in names}

    def misfit(layout: Layout) -> int:
        report = to_tree(ghosts, _paths(layout), dtype=None)[1]
        return len(report.missing) + len(report.unused)

    return min(layouts_of(family).values(), key=misfit)


def _paths(layout: Layout) -> tuple[TensorRule, ...]:
    """Return the layout's rules with paths for names, and without any change of the arrays."""
    return tuple(TensorRule(rule.path, rule.path, "vector", rule.optional) for rule in layout.rules)


def _same(tree: dict[str, Any]) -> dict[str, Any]:
    return tree
