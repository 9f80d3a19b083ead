"""Bags of tiles: where their features come from, and the few lengths that they are padded to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from histojax.common.errors import UserError

BLOCK = 128  # lengths with a class token before them are multiples of it, those below of 16
GROWTH = 1.125  # from a length to the next, at most where they are long
BUDGET = 2 << 30  # bytes of features that are kept in memory, so that a second pass need not read them


@dataclass(frozen=True)
class Bag:
    """All tiles of a slide or patient.

    Args:
        name: in messages.
        load: reads the features, (n, d) of any float type.
        tiles: n, known without reading; 0 where it is not.
        augmented: reads one augmented copy, (n, d), drawn with the generator; None where there is none.
    """

    name: str
    load: Callable[[], np.ndarray]
    tiles: int = 0
    augmented: Callable[[np.random.Generator], np.ndarray] | None = None


def bucket(tiles: int) -> int:
    """The length that a bag of `tiles` is padded to: 15, 31, 63, then one less than multiples of 128, an eighth apart.

    A program is compiled for each length that occurs, so they are few: 36 up to 20,000. A class token makes them even.
    """
    tokens = tiles + 1
    length = 16
    while length < min(tokens, BLOCK):
        length *= 2
    while length < tokens:
        length = max(length + BLOCK, int(length * GROWTH) // BLOCK * BLOCK)
    return length - 1


def padded(x: np.ndarray, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x (n, d) as a batch of one, (1, L, d) float32 with zeros at its end, and which of it are tiles, (1, L) bool."""
    length = length or bucket(len(x))
    out = np.zeros((1, length, x.shape[1]), np.float32)
    out[0, : len(x)] = x
    return out, (np.arange(length) < len(x))[None]


def checked(bag: Bag, x: np.ndarray, inputs: int = 0) -> np.ndarray:
    """x, if it is (n, d) with n and d above 0 and finite, d = `inputs` if given; else UserError."""
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise UserError(f"{bag.name}: features {x.shape} {x.dtype}, expected (tiles, features) of numbers")
    if not len(x):
        raise UserError(f"{bag.name}: an empty bag, it has no tiles; leave it out of the tables")
    if inputs and x.shape[1] != inputs:
        raise UserError(
            f"{bag.name}: {x.shape[1]} features a tile, expected {inputs}: the bags are of different encoders"
        )
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise UserError(
            f"{bag.name}: {bad.sum()} of {len(x)} tiles have features that are not finite, the first is number "
            f"{bad.argmax()}; extract them again"
        )
    return x


class Reader:
    """Reads bags, checked, one ahead of the one in use; keeps up to `budget` bytes of them."""

    def __init__(self, bags: Sequence[Bag], inputs: int = 0, budget: int = BUDGET):
        self.bags, self.inputs, self.left = bags, inputs, budget
        self._kept: dict[int, np.ndarray] = {}

    def load(self, row: int) -> np.ndarray:
        """(n, d) of the bag of that number; raises UserError."""
        if row in self._kept:
            return self._kept[row]
        x = checked(self.bags[row], self.bags[row].load(), self.inputs)
        if x.nbytes <= self.left:
            self._kept[row] = x
            self.left -= x.nbytes
        return x

    def draw(self, row: int, rng: np.random.Generator, max_tiles: int, augmented: float) -> np.ndarray:
        """What a training step sees of a bag: see `TrainSettings`."""
        bag = self.bags[row]
        if bag.augmented and rng.random() < augmented:
            x = checked(bag, bag.augmented(rng), self.inputs)
        else:
            x = self.load(row)
        if 0 < max_tiles < len(x):
            x = x[rng.choice(len(x), max_tiles, replace=False)]
        return x


def one_ahead(jobs: Iterable[Callable[[], np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The padded results of the jobs, in order; while one is in use, a thread works at the next."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for job in jobs:
            coming = pool.submit(_run, job)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _run(job: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return padded(job())
