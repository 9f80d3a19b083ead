"""Labelled tiles in two parts: whole patients where they are known, else class by class."""

from __future__ import annotations

import numpy as np

from histojax.common.errors import UserError
from histojax.data.coded import Coded
from histojax.data.tiles import UNLABELLED, Source


def split_labelled(source: Source, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) tile numbers, int64 and ascending, of the labelled tiles; the same for the same seed.

    With groups, whole patients go to one side, chosen so that every class comes close to `test_share`; a tile
    without a group is a group of its own. Without groups each class is split by itself. Raises UserError when
    nothing is labelled or there are not two groups (or tiles) to split.
    """
    labelled = np.flatnonzero(source.labels != UNLABELLED)
    if not labelled.size:
        raise UserError("no tile is labelled: put tiles into one folder a class, or use a CSV with a label column")
    if not 0 < test_share < 1:
        raise UserError(f"test share {test_share} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    labels = source.labels[labelled]
    if source.groups is None:
        is_test = _stratified(labels, test_share, rng)
    else:
        is_test = _whole_groups(labels, Coded.of(source.groups).take(labelled), test_share, rng)
    if is_test.all() or not is_test.any():
        what = "tiles" if source.groups is None else "patients or slides"
        raise UserError(f"{len(labelled)} labelled tiles do not split into two sets of {what}: name a test set")
    return labelled[~is_test], labelled[is_test]


def split_in_words(source: Source) -> str:
    """How `split_labelled` parts a source: "split by patient" only if every labelled tile has one."""
    kind = source.facts.group_kind
    known = None if source.groups is None else Coded.of(source.groups).known()[source.labels != UNLABELLED]
    if known is None or not known.any():
        return "split by class (no patients known: tiles of one slide may be in two parts)"
    without = int((~known).sum())
    words = f"split by {kind or 'group'}" + (f" where known ({without} tiles have none)" if without else "")
    return words if kind in ("patient", "group") else f"{words} (patients unknown: one may be in two parts)"


def _stratified(labels: np.ndarray, test_share: float, rng: np.random.Generator) -> np.ndarray:
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(test_share * len(members))]] = True
    return is_test


def _whole_groups(labels: np.ndarray, groups: Coded, share: float, rng: np.random.Generator) -> np.ndarray:
    """Greedy: in random order, a group joins the test set when that brings the class counts nearer to the goal."""
    known, names = groups.known(), groups.used()
    place = np.searchsorted(names, groups.table) if names else np.zeros(len(groups.table), np.int64)
    group_of = place[groups.numbers]
    group_of[~known] = len(names) + np.arange((~known).sum())
    counts = np.zeros((group_of.max() + 1, labels.max() + 1))
    np.add.at(counts, (group_of, labels), 1)
    total = np.maximum(counts.sum(0), 1)
    missing = np.full(len(total), share)  # share of each class that the test set still lacks
    in_test = np.zeros(len(counts), bool)
    for group in rng.permutation(len(counts)):
        rest = missing - counts[group] / total
        if np.square(rest).sum() < np.square(missing).sum() and in_test.sum() < len(counts) - 1:
            in_test[group], missing = True, rest
    if not in_test.any() and len(counts) > 1:  # every patient is bigger than the goal: take the smallest
        in_test[counts.sum(1).argmin()] = True
    return in_test[group_of]
