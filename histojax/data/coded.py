"""Many names, few of them different: patients, slides and classes of millions of tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Coded:
    """(n,) names, kept as numbers into a short table of the different ones; indexed as an array of str would be.

    `table` (k,) str may hold names that no number points to; `numbers` (n,) is of any integer type.
    """

    def __init__(self, table: Sequence[str] | np.ndarray, numbers: np.ndarray):
        self.table = np.asarray(table, str)
        self.numbers = numbers

    @classmethod
    def of(cls, names: Sequence[str] | np.ndarray | Coded) -> Coded:
        """The same names, coded, with a sorted table; what is coded stays as it is."""
        if isinstance(names, Coded):
            return names
        table, numbers = np.unique(np.asarray(names, str), return_inverse=True)
        return cls(table, numbers.astype(np.int32))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return self.table[self.numbers[index]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.table[self.numbers], dtype)

    def __eq__(self, name: object) -> Any:
        """(n,) bool: where the name is this one."""
        return (self.table == name)[self.numbers]

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[str]:
        """All names, in order."""
        return self.table[self.numbers].tolist()

    def take(self, chosen: np.ndarray) -> Coded:
        """The names of some rows."""
        return Coded(self.table, self.numbers[chosen])

    def known(self) -> np.ndarray:
        """(n,) bool: where the name is not empty."""
        return (self.table != "")[self.numbers]

    def used(self) -> list[str]:
        """The different names that are not empty, sorted."""
        return sorted(set(self.table[np.unique(self.numbers)].tolist()) - {""})

    def count(self) -> int:
        """How many different ones there are; each row without a name counts as one of its own."""
        return len(self.used()) + int((~self.known()).sum())


def joined(parts: Sequence[Coded]) -> Coded:
    """The names of all parts, in order, over one table."""
    table, place = np.unique(np.concatenate([part.table for part in parts]), return_inverse=True)
    starts = np.cumsum([0, *(len(part.table) for part in parts)])
    numbers = [
        place[start : start + len(part.table)].astype(np.int32)[part.numbers] for start, part in zip(starts, parts)
    ]
    return Coded(table, np.concatenate(numbers))
