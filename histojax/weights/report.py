"""What became of every tensor of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.trees import flatten, shape_of

_SHOWN = 6  # names per list in messages


@dataclass
class Report:
    """What `to_tree` did with each tensor, and the shapes it made."""

    matched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by tree path
    origin: dict[str, str] = field(default_factory=dict)  # tree path -> name template in the file
    dtypes: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One short paragraph: counts, and the first names of what did not match."""
        lines = [f"{len(self.matched)} tensors matched"]
        for title, names in (("missing", self.missing), ("unused", self.unused), ("ignored", self.ignored)):
            lines.append(f"{len(names)} {title}" + (f" ({some(names)})" if names else ""))
        lines.append("stored as " + ", ".join(f"{kind} x {count}" for kind, count in sorted(self.dtypes.items())))
        return "; ".join(lines) + "."

    def raise_if_bad(self, expected_shapes_tree: Mapping[str, Any] | None = None, file: Any = "weights") -> None:
        """Raise UserError if a tensor is missing, or if the tree is not shaped like `expected_shapes_tree`.

        Args:
            expected_shapes_tree: nested dict whose leaves have `.shape` (arrays, ShapeDtypeStruct) or are tuples.
            file: named in the message.
        """
        faults = list(self.problems)
        if self.missing:
            faults.append(f"{len(self.missing)} tensors are missing: {some(self.missing)}")
        if expected_shapes_tree is not None:
            faults += self._compare(flatten(expected_shapes_tree))
        if faults:
            raise UserError(
                f"{file}: " + "; ".join(faults) + ". The file belongs to another architecture or layout than "
                "the one asked for (or is incomplete): check the model's size, patch size and registers."
            )

    def _compare(self, expected: Mapping[str, Any]) -> list[str]:
        faults = []
        for path, leaf in expected.items():
            shape, found = shape_of(leaf), self.shapes.get(path)
            if found is None and not self.missing:  # else the missing names were listed already
                faults.append(f"the model needs {path} {shape} which the file does not have")
            elif found is not None and found != shape:
                faults.append(f"{self.origin.get(path, path)} has shape {found} as {path}, the model expects {shape}")
        extra = [path for path in self.shapes if path not in expected]
        if extra:
            faults.append(f"the file has parameters that the model has not: {some(extra)}")
        return faults if len(faults) <= _SHOWN else [*faults[:_SHOWN], f"and {len(faults) - _SHOWN} more"]


def some(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
