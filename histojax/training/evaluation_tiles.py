"""The tiles that a run is trained on and those that judge it: opened, parted, and read once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.data import count_shared, eval_batches, open_source, sample_check, unreadable
from histojax.data.bad_tiles import examples
from histojax.data.coded import Coded
from histojax.data.tiles import Facts
from histojax.evaluation import online
from histojax.evaluation.evaluators import FIT
from histojax.training.evaluation_split import (
    Parting,
    TileSet,
    check_classes,
    part_tiles,
    some,
    with_usable_validation,
)


def open_training(config: ConfigDict) -> Any:
    """The source of the training tiles; raises UserError when it is missing, empty or mostly unreadable."""
    source = _open(config, "data.train", config.data.train)
    sample_check(source)
    return source


def open_evaluation(config: ConfigDict, train_source: Any) -> online.EvalTiles:
    """The tiles that judge the teacher, and those of eval.slides beside them; raises UserError as both do."""
    tiles, slides = _open_tiles(config, train_source), _open_slides(config)
    if slides is None:
        return tiles
    both = hashlib.sha256(f"{tiles.fingerprint} {slides.fingerprint}".encode()).hexdigest()
    assert slides.groups is not None
    how = f"{tiles.how}; eval.slides: {len(slides.labels)} tiles of {Coded.of(slides.groups).count()} patients"
    return dataclasses.replace(tiles, slides=slides, fingerprint=both, how=how, bad=tiles.bad + slides.bad)


def _open_slides(config: ConfigDict) -> online.EvalTiles | None:
    """The labelled tiles of eval.slides, at most eval.max_tiles; raises UserError where patients cannot be judged."""
    if not config.eval.slides:
        return None
    from histojax.evaluation.slides_online import check_patients

    setting = f"eval.slides={config.eval.slides}"
    source = _open(config, "eval.slides", config.eval.slides, seed=3)
    labelled = np.flatnonzero(source.labels >= 0)
    if not len(labelled) or source.groups is None:
        raise UserError(
            f"{setting}: its tiles need labels and patients; give a table with the columns file,label,patient"
        )
    chosen = labelled[some(np.arange(len(labelled)), config.eval.max_tiles, config.eval.split_seed)]
    (part,) = _readable(config, TileSet(setting, source, chosen))
    groups = np.full(len(part.chosen), "") if part.groups is None else np.asarray(part.groups)
    check_patients(part.labels, groups, setting)
    return _tiles(config, Parting({FIT: part}, "", "patients choose nothing"), labelled=True)


def _open_tiles(config: ConfigDict, train_source: Any) -> online.EvalTiles:
    """The tiles that judge the teacher: eval.data (else the training tiles) in parts, with eval.test as the test part.

    Labels need two classes; with fewer the tiles are unlabelled. Every tile is read once: unreadable ones are logged
    and left out. Raises UserError for more than data.max_bad_share of them in eval.data or eval.test, and for labels
    there that do not split. Labels of the training tiles that do not split are a warning: there they are optional.
    """
    e = config.eval
    source = _open(config, "eval.data", e.data, seed=1) if e.data else train_source
    data = TileSet(f"eval.data={e.data}" if e.data else f"data.train={config.data.train}", source, np.arange(0))
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
        other = None
        if e.test:
            other = TileSet(f"eval.test={e.test}", _open(config, "eval.test", e.test, seed=2), np.arange(0))
            _say_shared(data, other, train_source)
        parting = part_tiles(config, data, other)
        parts = dict(zip(parting.parts, _readable(config, *parting.parts.values())))
        parting = with_usable_validation(dataclasses.replace(parting, parts=parts))
        check_classes(parting.parts)
    except UserError as error:
        if e.data or e.test:
            raise
        if jax.process_index() == 0:
            cli.warn("histojax train", [f"{error}; the evaluation goes without labels"])
        return _unlabelled(config, data, "labels not used: they do not split")
    return _tiles(config, parting, labelled=True)


def _say_shared(data: TileSet, test: TileSet, train_source: Any) -> None:
    """Warns of tiles of eval.test that are fitted on, labels and all, or trained on, without them."""
    found = {
        f"in {data.setting}, which is fitted on: no score of theirs counts": count_shared(data.source, test.source)
    }
    if train_source is not data.source:
        found["trained on, without their labels"] = count_shared(train_source, test.source)
    if jax.process_index() == 0:
        words = [f"{count} of its {len(test.source)} tiles are also {what}" for what, count in found.items() if count]
        cli.warn("histojax train", [f"{test.setting}: {sentence}" for sentence in words])


def _unlabelled(config: ConfigDict, data: TileSet, how: str) -> online.EvalTiles:
    """Tiles for the evaluators that need no labels."""
    chosen = some(np.arange(len(data.source)), config.eval.max_tiles, config.eval.split_seed)
    (part,) = _readable(config, dataclasses.replace(data, chosen=chosen))
    if not len(part.chosen):
        raise UserError(f"{data.setting}: no tile of it can be read: {examples(part.bad)}")
    return _tiles(config, Parting({FIT: part}, how, f"no labels to choose by ({how})"), labelled=False)


def _readable(config: ConfigDict, *parts: TileSet) -> list[TileSet]:
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


def _without_unreadable(part: TileSet) -> TileSet:
    errors = unreadable(part.source, part.chosen)
    kept = part.chosen[~np.isin(part.chosen, list(errors))]
    return dataclasses.replace(part, chosen=kept, bad=tuple((e.path, e.reason) for e in errors.values()))


def _tiles(config: ConfigDict, parting: Parting, labelled: bool) -> online.EvalTiles:
    """What the evaluation takes; labels are those of the tiles to fit on, other sources' are matched by name."""
    names, sets = list(parting.parts), list(parting.parts.values())
    sizes = [len(part.chosen) for part in sets]
    bad = tuple(dict.fromkeys(one for part in sets for one in part.bad))
    how = parting.how + (f"; unreadable and left out: {len(bad)}" if bad else "")
    labels = [_labels(part, sets[0].source.classes) for part in sets] if labelled else [np.full(sum(sizes), -1)]
    groups = [np.full(size, "") if part.groups is None else np.asarray(part.groups) for part, size in zip(sets, sizes)]
    return online.EvalTiles(
        batches=_reader(config, *sets),
        labels=np.concatenate(labels).astype(np.int32),
        parts=np.repeat(names, sizes),
        groups=None if all(part.groups is None for part in sets) else np.concatenate(groups),
        how=how,
        no_best=parting.no_best,
        bad=bad,
        fingerprint=_fingerprint(sets),
    )


def _fingerprint(sets: Sequence[TileSet]) -> str:
    """SHA-256 over names, sizes, labels and classes of all tiles of the sources, readable or not."""
    digest = hashlib.sha256()
    for source in {id(part.source): part.source for part in sets}.values():
        digest.update(source.fingerprint().encode())
        digest.update(np.asarray(source.labels, np.int32).tobytes())
        digest.update("\n".join(source.classes).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _labels(part: TileSet, classes: tuple[str, ...]) -> np.ndarray:
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in part.source.classes], np.int32)[part.labels]


def _resolution(facts: Facts, tile_px: int, spec: str) -> list[str]:
    """Sentences on tiles that were cut at other sizes or resolutions than those that are trained on."""
    said = [
        f"{spec}: its tiles of {side} px at {mpp:g} um/px become {tile_px} px at {mpp * side / tile_px:.3g} um/px; "
        f"--config.data.tile_px={side} takes them as they were cut"
        for side, mpp in facts.cut_at
        if side != tile_px
    ]
    resolutions = sorted({mpp * side / tile_px for side, mpp in facts.cut_at})
    if len(resolutions) > 1:
        said.append(
            f"{spec}: its parts are at {' and '.join(f'{mpp:.3g}' for mpp in resolutions)} um/px, read together"
        )
    return said


def _open(config: ConfigDict, setting: str, spec: str, seed: int = 0) -> Any:
    """The source that a setting names; what had to be assumed about it is a warning.

    Synthetic tissue is drawn at the size that is trained on, other patients for another `seed`. Raises UserError that
    names the setting.
    """
    try:
        source = open_source(spec, tile_px=config.data.tile_px, seed=seed)
        if setting.startswith("eval."):
            sample_check(source, max_bad_share=1)  # all are read later, and the unreadable ones counted
    except UserError as error:
        raise UserError(f"{setting}={spec}: {str(error).removeprefix(f'{spec}: ')}") from None
    if jax.process_index() == 0:
        notes = [*source.facts.notes, *_resolution(source.facts, config.data.tile_px, spec)]
        cli.warn("histojax train", [f"{setting}: {note}" for note in notes])
        if setting.startswith("eval.") and source.facts.left_out:  # of data.train the plan says it
            cli.warn("histojax train", [f"{setting}: found {source.facts.found}"])
    return source


def _reader(config: ConfigDict, *parts: TileSet) -> Callable[..., Iterator[online.Batch]]:
    # as training reads them; but where crops are drawn from far larger tiles, small ones must not be enlarged first
    side, input_px = config.data.tile_px, config.eval.image_px
    side = input_px if side > 2 * input_px else side

    def batches(multiple: int = 1, rows_of: Callable[[int], Sequence[int]] = range) -> Iterator[online.Batch]:
        size = -(-config.eval.batch_size // multiple) * multiple
        for part in parts:
            lost: list[int] = []
            for batch in eval_batches(part.source, part.chosen, size, side, rows=rows_of(size)):
                lost += batch["bad"][batch["bad"] >= 0].tolist()
                yield batch
            if lost:
                name = part.source.name(lost[0])
                logging.warning(
                    "%s: %d evaluation tiles cannot be read any more: %s ...", part.setting, len(lost), name
                )

    return batches
