"""Evaluation while training: is the teacher getting better at telling held-out tiles apart?

The features of the evaluation tiles are taken once and handed to every evaluator (see evaluators.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.evaluators import FIT, HISTOGRAM, PARTS, TEST, VALIDATION, Evaluator, FeatureSet, Part
from histojax.evaluation.histogram import colour_histogram

Batch = Mapping[str, np.ndarray]
CHECK = "they could be at the start; look after the storage and run the same command again"


@dataclasses.dataclass(frozen=True)
class EvalTiles:
    """The tiles of the evaluation, and in words how they were parted.

    `batches()` yields dict(image (b, P, P, 3) uint8, index (b,), valid (b,) bool) in the order of `labels`, all of
    one size; rows with index -1 only fill a batch, other invalid rows are tiles that became unreadable since.
    `batches(multiple, rows_of)`: of batches whose size b is a multiple of that number, the rows `rows_of(b)`.
    """

    batches: Callable[..., Iterable[Batch]]
    labels: np.ndarray  # (n,) int32; -1: unlabelled
    parts: np.ndarray  # (n,) str: fit, validation or test; all "fit" without labels
    groups: np.ndarray | None = None  # (n,) str, patient or slide, "" where unknown
    how: str = ""  # how the parts came about, or why there are no labels
    no_best: str = ""  # why no part can choose a checkpoint; "" if the validation part can
    bad: tuple[tuple[str, str], ...] = ()  # (path, reason) of the unreadable tiles, which are not among them
    fingerprint: str = ""  # of all tiles of the sources and their labels, wherever they lie
    slides: EvalTiles | None = None  # tiles labelled by their patient, all of them "fit", for rows of_slides

    @property
    def labelled(self) -> bool:
        """Whether classifiers can be fitted and judged."""
        return bool((self.parts != FIT).any())

    def count(self, part: str) -> int:
        """Tiles of a part."""
        return int((self.parts == part).sum())

    def count_groups(self, part: str) -> int:
        """Patients or slides of a part, a tile of no known one counting as its own; 0 where none is known."""
        names = np.array([]) if self.groups is None else self.groups[self.parts == part]
        known = names[names != ""]
        return len(np.unique(known)) + len(names) - len(known) if len(known) else 0

    def in_words(self, part: str) -> str:
        """E.g. "180 tiles of 1 group"."""
        groups = self.count_groups(part)
        return f"{self.count(part)} tiles" + (f" of {groups} group{'s' * (groups != 1)}" if groups else "")


def evaluate(
    tiles: EvalTiles, features: Callable[[np.ndarray], np.ndarray], rows: Sequence[Evaluator]
) -> dict[str, float]:
    """{metric: value} of `features`, a function from uint8 (b, P, P, 3) to (b, D) float32, by all `rows` that apply.

    Empty for features that are not finite: an accuracy of those would be a number without meaning. Raises UserError
    when no tile of a part can be read any more.
    """
    found = feature_set(tiles, features)
    if found is None:
        return {}
    values: dict[str, float] = {}
    for row in rows:
        if (found.labelled or not row.needs_labels) and not row.of_slides:
            values |= row.function(found)
    bags = [row for row in rows if row.of_slides]
    if tiles.slides is None or not bags:
        return values
    patients = feature_set(tiles.slides, features)
    if patients is None:
        return {}
    for row in bags:
        values |= row.function(patients)
    return values


def baseline(tiles: EvalTiles, rows: Sequence[Evaluator]) -> dict[str, float]:
    """{"histogram/metric": value} of joint colour histograms on the same parts: what colour alone can do."""
    chosen = [row for row in rows if row.baseline and tiles.labelled]
    values = evaluate(tiles, colour_histogram, chosen) if chosen else {}
    return {f"{HISTOGRAM}/{name}": value for name, value in values.items()}


def feature_set(tiles: EvalTiles, features: Callable[[np.ndarray], np.ndarray]) -> FeatureSet | None:
    """The features of all tiles that can still be read, by part; None if they are not finite."""
    found, valid = _collect(tiles, features)
    if not np.isfinite(found).all():
        return None
    parts = {}
    for name in PARTS:
        if not tiles.count(name):
            continue
        chosen = np.flatnonzero((tiles.parts == name) & valid)
        if not len(chosen):
            raise UserError(
                f"of {len(valid)} evaluation tiles {valid.sum()} can still be read, none of the part {name}: {CHECK}"
            )
        groups = None if tiles.groups is None else tiles.groups[chosen]
        parts[name] = Part(found[chosen], tiles.labels[chosen].astype(np.int64), chosen, groups)
    return FeatureSet(parts[FIT], parts.get(VALIDATION), parts.get(TEST))


def _collect(tiles: EvalTiles, features: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) features and (n,) bool: False where the tile is unreadable."""
    rows, valid = [], []
    for batch in tiles.batches():
        real = batch["index"] >= 0
        rows.append(np.asarray(features(batch["image"]), np.float32)[real])
        valid.append(batch["valid"][real])
    if not any(part.any() for part in valid):
        raise UserError(f"none of {len(tiles.labels)} evaluation tiles can be read any more: {CHECK}")
    return np.concatenate(rows), np.concatenate(valid)
