"""The tiles that a run is trained on and those that judge it: opened, split, and read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.data import eval_batches, open_source, sample_check, split_labelled, unreadable
from histojax.data.bad_tiles import examples
from histojax.evaluation import online


def open_training(config: ConfigDict) -> Any:
    """The source of the training tiles; raises UserError when it is missing, empty or mostly unreadable."""
    source = _open(config, config.data.train)
    sample_check(source)
    return source


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some tiles of a source, and the setting that names it."""

    setting: str
    source: Any
    chosen: np.ndarray  # record numbers, ascending
    bad: tuple[tuple[str, str], ...] = ()  # (path, reason) of those left out

    @property
    def classes(self) -> set[str]:
        """Names of the classes of the chosen tiles."""
        return {self.source.classes[label] for label in np.unique(self.source.labels[self.chosen])}


def open_evaluation(config: ConfigDict, train_source: Any) -> online.EvalTiles:
    """The tiles that judge the teacher: eval.data (else the training tiles), split or with eval.test beside it.

    Labels need two classes; with fewer the tiles are unlabelled. Every tile is read once: unreadable ones are logged
    and left out. Raises UserError for more than data.max_bad_share of them in eval.data or eval.test, and for labels
    there that do not split. Labels of the training tiles that do not split are a warning: there they are optional.
    """
    e = config.eval
    source = _open(config, e.data, seed=1) if e.data else train_source
    data = _Part(f"eval.data={e.data}" if e.data else f"data.train={config.data.train}", source, np.arange(0))
    found = np.unique(source.labels[source.labels >= 0])
    if len(found) < 2:
        why = f"one class only, {source.classes[found[0]]}" if len(found) else "no labels"
        if e.test:
            raise UserError(
                f"eval.test={e.test} needs labelled tiles of two classes to fit on ({data.setting}: {why}): name them "
                "in eval.data"
            )
        return _unlabelled(config, data, why)
    try:
        fit, test, how = _with_test_set(config, data) if e.test else _split(config, data)
        fit, test = _readable(config, fit, test)
        _check_classes(fit, test)
    except UserError as error:
        if e.data or e.test:
            raise
        if jax.process_index() == 0:
            cli.warn("histojax train", [f"{error}; the evaluation goes without labels"])
        return _unlabelled(config, data, "labels not used: they do not split")
    names = {name: i for i, name in enumerate(source.classes)}
    table = np.array([names[name] for name in test.source.classes], np.int32)
    labels = np.concatenate([source.labels[fit.chosen], table[test.source.labels[test.chosen]]])
    return _tiles(config, labels, len(fit.chosen), how, fit, test)


def _unlabelled(config: ConfigDict, data: _Part, how: str) -> online.EvalTiles:
    """Tiles for the read-outs that need no labels."""
    chosen = _some(np.arange(len(data.source)), config.eval.max_tiles, config.eval.split_seed)
    (part,) = _readable(config, dataclasses.replace(data, chosen=chosen))
    if not len(part.chosen):
        raise UserError(f"{data.setting}: no tile of it can be read: {examples(part.bad)}")
    return _tiles(config, np.full(len(part.chosen), -1, np.int32), 0, how, part)


def _with_test_set(config: ConfigDict, data: _Part) -> tuple[_Part, _Part, str]:
    """(tiles to fit on, tiles of eval.test, what they are in words)."""
    spec = config.eval.test
    test = _Part(f"eval.test={spec}", _open(config, spec, seed=2), np.arange(0))
    if set(test.source.classes) - set(data.source.classes):
        raise UserError(
            f"{test.setting}: its classes ({', '.join(test.source.classes)}) are not those of the tiles "
            f"to fit on ({', '.join(data.source.classes)})"
        )
    fit, held_out = (np.flatnonzero(part.source.labels >= 0) for part in (data, test))
    if not len(held_out):
        raise UserError(f"{test.setting}: no tile of it is labelled")
    return *_at_most(config, (data, fit), (test, held_out)), f"tested on {spec}"


def _split(config: ConfigDict, data: _Part) -> tuple[_Part, _Part, str]:
    """(tiles to fit on, tiles to test on, how they were parted)."""
    source, e = data.source, config.eval
    try:
        fit, test = split_labelled(source, e.test_share, e.split_seed)
    except UserError as error:
        raise UserError(f"{data.setting}: {error}") from None
    how = "split by class (no patients known: tiles of one slide may be on both sides)"
    if source.groups is not None:
        how = f"split by patient or slide ({_count(source, fit)} to fit, {_count(source, test)} to test)"
    return *_at_most(config, (data, fit), (data, test)), how


def _at_most(config: ConfigDict, *wanted: tuple[_Part, np.ndarray]) -> tuple[_Part, _Part]:
    """The parts with their tiles, eval.max_tiles together."""
    (data, fit), (other, test) = wanted
    e = config.eval
    fit = _some(fit, max(1, round(e.max_tiles * len(fit) / (len(fit) + len(test)))), e.split_seed)
    test = _some(test, max(1, e.max_tiles - len(fit)), e.split_seed)
    return dataclasses.replace(data, chosen=fit), dataclasses.replace(other, chosen=test)


def _readable(config: ConfigDict, *parts: _Part) -> list[_Part]:
    """The parts without their unreadable tiles; raises UserError if they are too many of a set meant to judge."""
    found = [_without_unreadable(part) for part in parts]
    limit = config.data.max_bad_share
    for setting in dict.fromkeys(part.setting for part in parts):
        bad = [one for part in found if part.setting == setting for one in part.bad]
        count = sum(len(part.chosen) for part in parts if part.setting == setting)
        if len(bad) > limit * count and setting.startswith("eval."):  # the training tiles have a log of their own
            raise UserError(
                f"{setting}: {len(bad)} of {count} evaluation tiles are unreadable ({len(bad) / count:.1%}, limit "
                f"{limit:.1%}): {examples(bad)}. Repair or remove them, or raise data.max_bad_share"
            )
        for path, reason in bad:
            logging.warning("evaluation tile left out: %s: %s", path, reason)
    return found


def _without_unreadable(part: _Part) -> _Part:
    errors = unreadable(part.source, part.chosen)
    kept = part.chosen[~np.isin(part.chosen, list(errors))]
    return dataclasses.replace(part, chosen=kept, bad=tuple((e.path, e.reason) for e in errors.values()))


def _check_classes(fit: _Part, test: _Part) -> None:
    """Raises UserError where an accuracy would say nothing: nothing to test on, or one class to choose from."""
    if not len(test.chosen):
        raise UserError(f"{test.setting}: no tile to test on can be read: {examples(test.bad)}")
    for part, purpose in ((fit, "fit"), (test, "test")):
        own = part is fit or test.source is fit.source  # eval.test may be of one class
        if len(part.classes) < 2 and own:
            found = ", ".join(part.classes) or "none"
            raise UserError(f"{part.setting}: the {len(part.chosen)} tiles to {purpose} on are of one class: {found}")


def _tiles(config: ConfigDict, labels: np.ndarray, fit: int, how: str, *parts: _Part) -> online.EvalTiles:
    bad = tuple(dict.fromkeys(one for part in parts for one in part.bad))
    how += f"; unreadable and left out: {len(bad)}" if bad else ""
    return online.EvalTiles(_reader(config, *parts), labels, fit, how, bad)


def _open(config: ConfigDict, spec: str, seed: int = 0) -> Any:
    """The source; synthetic tissue is drawn at the size that is trained on, other patients for another `seed`."""
    return open_source(spec, tile_px=config.data.tile_px, seed=seed)


def _count(source: Any, chosen: np.ndarray) -> int:
    return len(np.unique(np.asarray(source.groups)[chosen]))


def _some(indices: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Ascending, at most `limit` of them, drawn at random."""
    if len(indices) > limit:
        indices = np.random.default_rng(seed).choice(indices, limit, replace=False)
    return np.sort(indices)


def _reader(config: ConfigDict, *parts: _Part) -> Callable[[], Iterator[online.Batch]]:
    def batches() -> Iterator[online.Batch]:
        for part in parts:
            lost: list[int] = []
            for batch in eval_batches(part.source, part.chosen, config.eval.batch_size, config.data.tile_px):
                lost += batch["bad"][batch["bad"] >= 0].tolist()
                yield batch
            if lost:
                name = part.source.name(lost[0])
                logging.warning(
                    "%s: %d evaluation tiles cannot be read any more: %s ...", part.setting, len(lost), name
                )

    return batches
