"""The parts of the evaluation tiles: to fit on, to choose by (validation), to report (test).

A score that chooses a checkpoint or stops a run is read on the validation part, which is taken from the tiles to fit
on; the test part is only reported.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.data import split_in_words, split_labelled
from histojax.data.bad_tiles import examples
from histojax.data.coded import Coded
from histojax.evaluation.evaluators import FIT, PARTS, TEST, VALIDATION


@dataclasses.dataclass(frozen=True)
class TileSet:
    """Some tiles of a source, and the setting that names it."""

    setting: str
    source: Any
    chosen: np.ndarray  # tile numbers, ascending
    bad: tuple[tuple[str, str], ...] = ()  # (path, reason) of those left out

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32 of the chosen tiles, by the source's classes."""
        return self.source.labels[self.chosen]

    @property
    def groups(self) -> Coded | None:
        """(n,) names: patient or slide of the chosen tiles; None when no one's is known."""
        groups = None if self.source.groups is None else self.source.groups.take(self.chosen)
        return None if groups is None or not groups.known().any() else groups

    @property
    def classes(self) -> set[str]:
        """Names of the classes of the chosen tiles."""
        return {self.source.classes[label] for label in np.unique(self.labels) if label >= 0}


@dataclasses.dataclass(frozen=True)
class Parting:
    """The parts by name, in the order fit, validation, test; validation may be missing."""

    parts: dict[str, TileSet]
    how: str  # in words
    no_best: str = ""  # why there is no validation part; "" if there is one


def part_tiles(config: ConfigDict, data: TileSet, other: TileSet | None) -> Parting:
    """The labelled tiles of `data` in parts, eval.max_tiles of them together; `other`, if given, is the test part.

    Patients or slides stay whole where they are known. Raises UserError where no test part can be made.
    """
    e, labelled = config.eval, _labelled(data)
    if other is not None:
        fit, test = labelled, _test_set(data, other)
    else:
        try:
            fit, test = split_off(labelled, e.test_share, e.split_seed)
        except UserError as error:
            raise UserError(f"{data.setting}: {error}") from None
    parts, no_best = {FIT: fit, TEST: test}, ""
    try:
        if e.validation_share:
            parts[FIT], parts[VALIDATION] = split_off(fit, e.validation_share, e.split_seed)
        else:
            no_best = "eval.validation_share=0"
    except UserError:
        no_best = _why_not(fit)
    how = split_in_words(labelled.source)
    if other is not None:
        how = f"test is {other.setting}" + (f", the rest {how}" if VALIDATION in parts else "")
    return Parting(_at_most(config, {name: parts[name] for name in PARTS if name in parts}), how, no_best)


def split_off(tiles: TileSet, share: float, seed: int) -> tuple[TileSet, TileSet]:
    """(the others, about `share` of the tiles), see data.split_labelled; raises UserError where they do not split."""
    view: Any = _View(tiles.labels, tiles.groups)
    rest, taken = (tiles.chosen[rows] for rows in split_labelled(view, share, seed))
    return dataclasses.replace(tiles, chosen=rest), dataclasses.replace(tiles, chosen=taken)


def with_usable_validation(parting: Parting) -> Parting:
    """Gives the validation tiles back to those to fit on where either part has fewer than two classes."""
    fit, validation = parting.parts[FIT], parting.parts.get(VALIDATION)
    if validation is None or min(len(fit.classes), len(validation.classes)) > 1:
        return parting
    chosen = np.sort(np.concatenate([fit.chosen, validation.chosen]))
    whole = dataclasses.replace(fit, chosen=chosen, bad=fit.bad + validation.bad)
    return Parting({FIT: whole, TEST: parting.parts[TEST]}, parting.how, _why_not(whole))


def check_classes(parts: dict[str, TileSet]) -> None:
    """Raises UserError where an accuracy would say nothing: nothing to test on, or one class to choose from."""
    fit, test = parts[FIT], parts[TEST]
    if not len(test.chosen):
        raise UserError(f"{test.setting}: no tile to test on can be read: {examples(test.bad)}")
    for part, purpose in ((fit, "fit"), (test, "test")):
        own = part is fit or test.source is fit.source  # eval.test may be of one class
        if len(part.classes) < 2 and own:
            found = ", ".join(part.classes) or "none"
            raise UserError(f"{part.setting}: the {len(part.chosen)} tiles to {purpose} on are of one class: {found}")


def some(indices: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Ascending, at most `limit` of them, drawn at random."""
    if len(indices) > limit:
        indices = np.random.default_rng(seed).choice(indices, limit, replace=False)
    return np.sort(indices)


@dataclasses.dataclass(frozen=True)
class _View:
    """Some tiles of a source, as split_labelled looks at them."""

    labels: np.ndarray
    groups: Coded | None


def _labelled(tiles: TileSet) -> TileSet:
    return dataclasses.replace(tiles, chosen=np.flatnonzero(tiles.source.labels >= 0))


def _test_set(data: TileSet, other: TileSet) -> TileSet:
    """The labelled tiles of eval.test, whose classes have to be among those of the tiles to fit on."""
    if set(other.source.classes) - set(data.source.classes):
        raise UserError(
            f"{other.setting}: its classes ({', '.join(other.source.classes)}) are not those of the tiles "
            f"to fit on ({', '.join(data.source.classes)})"
        )
    test = _labelled(other)
    if not len(test.chosen):
        raise UserError(f"{other.setting}: no tile of it is labelled")
    return test


def _at_most(config: ConfigDict, parts: dict[str, TileSet]) -> dict[str, TileSet]:
    """The parts with eval.max_tiles tiles together, each with its share of them and at least one."""
    left, rest = config.eval.max_tiles, sum(len(part.chosen) for part in parts.values())
    kept = {}
    for name, part in parts.items():
        chosen = some(part.chosen, max(1, round(left * len(part.chosen) / rest)), config.eval.split_seed)
        left, rest = left - len(chosen), rest - len(part.chosen)
        kept[name] = dataclasses.replace(part, chosen=chosen)
    return kept


def _why_not(fit: TileSet) -> str:
    groups = "" if fit.groups is None else f", of {fit.groups.count()} {fit.source.facts.group_kind or 'group'}s,"
    return f"the {len(fit.chosen)} tiles to fit on{groups} do not split into two parts of two classes each"
