"""Layouts: how one kind of files names the parameters of one of our trees. A layout is a row of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from histojax.weights.checks import shape_faults
from histojax.weights.mapping import TensorRule, from_tree, to_tree
from histojax.weights.report import Report
from histojax.weights.trees import flatten


def _same(tree: dict[str, Any]) -> dict[str, Any]:
    return tree


@dataclass(frozen=True)
class Layout:
    """One naming convention for one family of networks.

    Args:
        name: what users see ("meta", "timm", "hf"); unique within the family. Of "hf-vit", "hf" is enough for
            users where the names in the file decide.
        rules: the table; see mapping.TensorRule.
        recognise: from the set of tensor names, the reason why this layout fits, or "".
        ignore: shell patterns of names that such files may hold and we have no use for.
        drop: shell patterns of tree paths that cannot be written.
        after_read, before_write: changes of the tree that a rule cannot express; inverse to each other.
        family: which network the tree is for; see families.FAMILIES.
        faults: from the tree, complaints about optional parts that make no network together.
        spare: shell patterns of tree paths that a file may have and a network may do without (a classifier).
    """

    name: str
    rules: tuple[TensorRule, ...]
    recognise: Callable[[Set[str]], str]
    ignore: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    after_read: Callable[[dict[str, Any]], dict[str, Any]] = _same
    before_write: Callable[[dict[str, Any]], dict[str, Any]] = _same
    family: str = "vit"
    faults: Callable[[Mapping[str, Any]], list[str]] = lambda tree: []
    spare: tuple[str, ...] = ()

    def read(
        self, tensors: Mapping[str, Any], *, dtype: Any = np.float32, expected: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], Report]:
        """Return (tree, Report) of a flat dict of tensors.

        Args:
            tensors: see mapping.to_tree.
            dtype: of the tree's floating-point leaves; None keeps what is stored.
            expected: the network's tree; spare parts that it has not are not read, and reported as ignored.
        """
        wanted = None if expected is None else set(flatten(expected))

        def skip(path: str) -> bool:
            return wanted is not None and path not in wanted and any(fnmatchcase(path, p) for p in self.spare)

        tree, report = to_tree(tensors, self.rules, ignore=self.ignore, skip=skip, dtype=dtype)
        tree = self.after_read(tree)
        if not report.missing and not report.problems:
            report.problems += self.faults(tree)
        report.shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
        if not report.missing and not report.problems:
            report.problems += shape_faults(report.shapes, report.origin)
        return tree, report

    def write(self, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the flat dict of tensors of a tree."""
        return from_tree(self.before_write(dict(tree)), self.rules, drop=self.drop)
