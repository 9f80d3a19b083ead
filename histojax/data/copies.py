"""Copies among many tiles: identical ones, near-identical ones, turned and mirrored ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histojax.data.hashes import SAME, distances, near_pairs, uprighted

IDENTICAL, NEAR, TURNED = "identical", "near-identical", "turned or mirrored"


@dataclass(frozen=True)
class Copies:
    """Groups of tiles that are copies of each other. `cluster` (n,) is -1 for a tile without a copy.

    Of each tile with copies `first` (n,) is the first tile of its group, `distance` (n,) how many of their signs
    differ, `turned` (n,) whether it has to be turned for that; `pixels` (n,) is a number that equal pixels share.
    `crowded` tiles were not compared with all that might be like them.
    """

    cluster: np.ndarray
    first: np.ndarray
    distance: np.ndarray
    turned: np.ndarray
    pixels: np.ndarray
    crowded: int

    def kind(self, index: int) -> str:
        """What a tile is of the first of its group."""
        if self.pixels[index] == self.pixels[self.first[index]]:
            return IDENTICAL
        return TURNED if self.turned[index] else NEAR


def find_copies(rows: np.ndarray, usable: np.ndarray, most: int = SAME) -> Copies:
    """The copies among the tiles with hashes `rows` (n,) that are `usable` (n,) bool; most=0: identical ones alone."""
    use = np.flatnonzero(usable)
    pixels = np.full(len(rows), -1, np.int64)
    same, members = _numbered(rows["pixels"][use])
    pixels[use] = same
    signs = rows["signs"][use][members]
    upright = uprighted(signs, rows["turn"][use][members])
    linked, crowded = np.arange(len(members)), 0
    if most:
        plain, _, crowded = near_pairs(signs, most)
        turned, _, also = near_pairs(upright, most)
        crowded = max(crowded, also)
        pairs = np.concatenate([plain, turned])
        linked = connected(len(members), pairs)
    group = linked[same]  # of each usable tile
    shared = np.bincount(group)[group] > 1
    cluster, first = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
    beginners = np.full(group.max(initial=-1) + 1, len(rows), np.int64)
    np.minimum.at(beginners, group, use)
    first[use[shared]] = beginners[group[shared]]
    _, cluster[use[shared]] = np.unique(first[use[shared]], return_inverse=True)
    distance, turns = np.zeros(len(rows), np.uint16), np.zeros(len(rows), bool)
    mine = np.flatnonzero(first >= 0)
    plainly, turned_so = both_distances(rows[mine], rows[first[mine]])
    distance[mine], turns[mine] = np.minimum(plainly, turned_so), turned_so < plainly
    return Copies(cluster, first, distance, turns, pixels, crowded)


def both_distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n,) distances of two (n,) ROW as they are, and as turned)."""
    turned = distances(uprighted(first["signs"], first["turn"]), uprighted(second["signs"], second["turn"]))
    return distances(first["signs"], second["signs"]), turned


def connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) the smallest number that each number is linked to by a chain of pairs (p, 2)."""
    lowest = np.arange(count)
    while True:
        before = lowest.copy()
        for one, other in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
            np.minimum.at(lowest, lowest[one], lowest[other])
        lowest = lowest[lowest]
        if (lowest == before).all():
            return lowest


def _numbered(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n,) a number for each tile, equal for equal pixels; (k,) one tile of each number), of (n, 2) uint64."""
    order = np.lexsort((pixels[:, 1], pixels[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (pixels[order[1:]] != pixels[order[:-1]]).any(1)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers, order[new]
