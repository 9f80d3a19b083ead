"""What a benchmark is asked for: rows (encoders), data, and how they are computed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.evaluation.paper.numbers import FINETUNED, ROWS, encoder_of
from histojax.zoo.table import find, is_known, spelling

Protocol = Literal["patch", "slide"]
RANDOM = "random"
OTHER_WEIGHTS = "other weights than the paper's"


@dataclass(frozen=True)
class Row:
    """An encoder, a row of the tables.

    Args:
        name: of the row; one of the paper's has its name.
        spec: name of a published encoder, or path of weights, see zoo.load_encoder.
        weights: a local file for the named encoder, "random", or None for the published file.
        paper: whether the paper has this row.
    """

    name: str
    spec: str
    weights: str | None = None
    paper: bool = False

    @property
    def trained(self) -> bool:
        """Whether the weights are of a training of the user's own."""
        return not is_known(self.spec)

    @property
    def folder(self) -> str:
        """Under which name features and results are filed."""
        published = self.paper and self.weights is None and not self.trained
        return find(self.spec).name if published else slug(self.name + ("_random" if self.weights == RANDOM else ""))

    @property
    def title(self) -> str:
        """Its name in tables of scores, which says where the weights are not those of that name."""
        if self.weights == RANDOM:
            return f"{self.name} (random weights)"
        return f"{self.name} ({Path(self.spec).name})" if self.paper and self.trained else self.name

    @property
    def another(self) -> str:
        """Why its numbers are not those of the paper's row, "" if they are meant to be."""
        if self.weights == RANDOM:
            return "random weights"
        return OTHER_WEIGHTS if self.paper and self.trained and self.name not in FINETUNED else ""


@dataclass(frozen=True)
class Cohort:
    """Slides with their tables, as histojax evaluate slide takes them.

    Args:
        slides: folder, or pattern, of slides.
        features: folder with a folder features_ENCODER for each row, instead of slides.
        clini, table: the clinical table and the one that says which slides a patient has ("": their names say it).
        mpp: of slides that do not tell theirs.
    """

    slides: str = ""
    features: str = ""
    clini: str = ""
    table: str = ""
    mpp: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark.

    Args:
        name: heads the tables.
        protocol: "patch" (Table 2) or "slide" (Table 1).
        rows: encoders.
        train, test: labelled tiles, as histojax train takes data; patch alone.
        internal, external: cohorts; slide alone.
        target: column of the clinical tables.
        classes: of the target, the last of two being the positive one; () for those found.
        choice: which slides of a patient, a key of evaluation.cohort.CHOICES.
        epochs: of the heads.
        run: folder of a training whose exports are the points of Figure 2, "" for none.
        run_row: the row of the paper that this training is compared with.
        seed: of folds and heads.
        draws: of bootstrap intervals.
        workers, dtype, batch_size, offline: of extraction.
        allow_leaks: whether a test that shares patients, slides or tiles with training is reported all the same.
        verify: whether archives are checked by their md5.
    """

    name: str
    protocol: Protocol
    rows: tuple[Row, ...]
    train: str = ""
    test: str = ""
    internal: Cohort = Cohort()
    external: Cohort = Cohort()
    target: str = "isMSIH"
    classes: tuple[str, ...] = ()
    choice: Literal["all", "first", "each"] = "first"
    epochs: int = 8
    run: str = ""
    run_row: str = "DINOv2 ViT-S finetuned"
    seed: int = 0
    draws: int = 1000
    workers: int = 0
    dtype: str = "float32"
    batch_size: int | None = None
    offline: bool = False
    allow_leaks: bool = False
    verify: bool = False


def make_rows(
    protocol: Protocol, chosen: Sequence[str], encoders: Sequence[str], weights: Sequence[str]
) -> tuple[Row, ...]:
    """The rows of a benchmark.

    Args:
        protocol: which table.
        chosen: rows of the paper; () for all, ("none",) for none.
        encoders: further ones, "NAME" or "LABEL=NAME or path".
        weights: "ROW=FILE", "ROW=random" or "ROW=FOLDER of a training" for rows of either kind.

    Raises UserError for names that do not exist, with the nearest one, and for rows of one name.
    """
    given = dict(_pair(text, "weights") for text in weights)
    names = () if tuple(chosen) == ("none",) else tuple(chosen) or ROWS
    base = [Row(name, encoder_of(name, protocol), paper=True) for name in map(_paper_row, names)]
    base += [Row(label, spec) for label, spec in map(_labelled, encoders)]
    known = {spelling(row.name): row.name for row in base}
    if len(known) < len(base):
        raise UserError(f"rows and encoders: {_twice(base)} is named twice; give one of them a label, LABEL=NAME")
    for name in given:
        if spelling(name) not in known:
            raise UserError(f"weights: {name!r} is no row of this benchmark; rows are {', '.join(known.values())}")
    chosen_weights = {known[spelling(name)]: path for name, path in given.items()}
    return tuple(_with_weights(row, chosen_weights.get(row.name)) for row in base)


def slug(text: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _with_weights(row: Row, weights: str | None) -> Row:
    if weights is None:
        return row
    if weights != RANDOM and expanded(weights).is_dir():  # a training, or an export with its card
        return Row(row.name, str(expanded(weights)), None, row.paper)
    if row.trained:
        raise UserError(f"weights: {row.name} is a path of weights itself ({row.spec}); name no others for it")
    return Row(row.name, row.spec, weights, row.paper)


def _paper_row(name: str) -> str:
    spelled = {spelling(row): row for row in ROWS}
    if spelling(name) in spelled:
        return spelled[spelling(name)]
    near = difflib.get_close_matches(spelling(name), spelled, n=1, cutoff=0.3)
    hint = f"did you mean {spelled[near[0]]!r}? " if near else ""
    raise UserError(f"rows: the paper has no row {name!r}; {hint}rows are {', '.join(ROWS)}")


def _labelled(text: str) -> tuple[str, str]:
    label, equals, spec = text.partition("=")
    return (label.strip(), spec.strip()) if equals and not expanded(text).exists() else (text, text)


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UserError(f"{what}: expected ROW=FILE, ROW=random or ROW=FOLDER, got {text!r}")
    return name.strip(), value.strip()


def _twice(rows: Sequence[Row]) -> str:
    seen: set[str] = set()
    for row in rows:
        if spelling(row.name) in seen:
            return row.name
        seen.add(spelling(row.name))
    return ""
