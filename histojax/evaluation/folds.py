"""Folds: which patients train, choose a model and test it. Patients are kept by their names, in a file.

The file is JSON, or a table that is easily written by hand:

    {"format": "histojax folds 1", "patients_sha256": "...",       a row a patient and fold, fold numbers from 0:
     "folds": [{"train": ["P1", ...],                               patient,fold,part
                "validation": ["P7", ...],                          P1,0,train
                "test": ["P9", ...]}, ...]}                         P7,0,validation ...

The hash is that of `cohort_tables.labels_sha256` and may be missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded, read_json, write_atomic
from histojax.data.columns import PATIENT, plain, whole_numbers
from histojax.data.workbook import read_sheet

FORMAT = "histojax folds 1"
PARTS = ("train", "validation", "test")
SPELLINGS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
FEWEST = 3  # patients of a class, so that one can be in each part


@dataclass(frozen=True)
class Fold:
    """Patients of each part, by name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(
    patients: Sequence[str], labels: np.ndarray | None, folds: int = 5, seed: int = 0, classes: Sequence[str] = ()
) -> list[Fold]:
    """The published scheme: stratified k folds of patients; of those not tested a stratified quarter validates.

    With 5 folds 60, 20 and 20 percent (specs/mil.md section 5). `labels` (n,) are what is stratified by, None: nothing.
    Patients are sorted first, so that the order of a table decides nothing. Raises UserError if a class has too few
    patients to be in every part of every fold.
    """
    from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

    order = np.argsort(np.asarray(patients))
    names = np.asarray(patients)[order]
    if labels is not None:
        labels = np.asarray(labels)[order]
    _check_enough(names, labels, folds, classes)
    splitter = (KFold if labels is None else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    made = []
    for rest, test in splitter.split(names, labels):
        strata = None if labels is None else labels[rest]
        try:
            train, validation = train_test_split(rest, stratify=strata, random_state=seed)
        except ValueError as error:
            raise UserError(f"{len(names)} patients are too few for {folds} folds ({error})") from None
        made.append(Fold(*(tuple(names[np.sort(rows)].tolist()) for rows in (train, validation, test))))
    return made


def _check_enough(names: np.ndarray, labels: np.ndarray | None, folds: int, classes: Sequence[str]) -> None:
    if folds < 2:
        raise UserError(f"--folds {folds}: expected 2 or more")
    need = max(folds, FEWEST)
    if labels is None:
        if len(names) < max(2 * folds, 4):
            raise UserError(f"{len(names)} patients are too few for {folds} folds; at least {max(2 * folds, 4)}")
        return
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < 2:
        only = classes[found[0]] if len(classes) else found[0]
        raise UserError(f"all {len(names)} patients are {only}: there is nothing to tell apart")
    if counts.min() < need:
        rare = found[counts.argmin()]
        name = classes[rare] if len(classes) else rare
        fewer = f"take --folds {counts.min()}, or " if counts.min() >= FEWEST else ""
        raise UserError(
            f"{len(names)} patients, but only {counts.min()} of class {name}: {folds} folds need {need} of each class, "
            f"for each to be in every part; {fewer}join or leave out the class (--label-map, --classes), or give a "
            "fold file"
        )


def write_folds(path: Path, folds: Sequence[Fold], sha256: str, facts: Mapping[str, Any] | None = None) -> None:
    """Writes the file, whole or not at all; `facts` say how the folds were made. Raises UserError."""
    told = {
        "format": FORMAT,
        **(facts or {}),
        "patients_sha256": sha256,
        "folds": [{part: list(getattr(fold, part)) for part in PARTS} for fold in folds],
    }
    write_atomic(path, json.dumps(told, indent=1) + "\n")


def read_folds(path: str | os.PathLike, patients: Sequence[str], sha256: str) -> tuple[list[Fold], list[str]]:
    """(the folds of a file, what has to be said of them).

    Raises UserError for patients whom the cohort does not have, or who are twice in a fold, for a part without
    patients (validation may be missing, see `with_validation`), and for what is no fold file. A patient may be tested
    in several folds, as in repeated cross-validation; that, a hash of another table and patients of no fold are said.
    """
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"{path}: no fold file (looked in {Path.cwd()}); --folds takes a number or a .json or .csv")
    folds, known = _of_json(path) if path.suffix.lower() == ".json" else (_of_table(path), "")
    if not folds:
        raise UserError(f"{path}: has no folds")
    for number, fold in enumerate(folds):
        _check_fold(path, number, fold, set(patients))
    return folds, _said(path, folds, patients, known, sha256)


def _of_json(path: Path) -> tuple[list[Fold], str]:
    told = read_json(path)
    expected = f"expected {FORMAT!r} with a list of folds, each with train, validation and test: lists of patients"
    if told.get("format", FORMAT) != FORMAT or not isinstance(told.get("folds"), list):
        raise UserError(f"{path}: {expected}")
    folds = []
    for one in told["folds"]:
        if not isinstance(one, dict) or not all(isinstance(value, list) for value in one.values()):
            raise UserError(f"{path}: {expected}")
        parts = {SPELLINGS.get(key.lower(), key.lower()): tuple(map(str, names)) for key, names in one.items()}
        if extra := set(parts) - set(PARTS):
            raise UserError(f"{path}: a fold has a part {sorted(extra)[0]!r}; {expected}")
        folds.append(Fold(*(parts.get(part, ()) for part in PARTS)))
    return folds, str(told.get("patients_sha256") or "")


def _of_table(path: Path) -> list[Fold]:
    titles, rows = read_sheet(path, "no folds; expected a header row (patient,fold,part) and one row a patient")
    keys = [plain(title) for title in titles]
    where = {
        "patient": next((keys.index(key) for key in PATIENT if key in keys), None),
        "fold": keys.index("fold") if "fold" in keys else None,
        "part": next((keys.index(key) for key in ("part", "split", "set") if key in keys), None),
    }
    if missing := [role for role, i in where.items() if i is None]:
        raise UserError(f"{path}: has no column {missing[0]}; expected patient,fold,part, a row a patient and fold")
    patients = whole_numbers([row[where["patient"] or 0] for _, row in rows])
    found: dict[int, dict[str, list[str]]] = {}
    for (line, row), patient in zip(rows, patients):
        fold, part = row[where["fold"] or 0], row[where["part"] or 0].lower()
        part = SPELLINGS.get(part, part)
        if not fold.isdigit() or part not in PARTS:
            raise UserError(
                f"{path}: line {line}: fold {fold!r}, part {part!r}; expected a number from 0 and one of {PARTS}"
            )
        found.setdefault(int(fold), {name: [] for name in PARTS})[part].append(patient)
    if sorted(found) != list(range(len(found))):
        raise UserError(f"{path}: its folds are {sorted(found)}; expected 0 to {len(found) - 1}")
    return [Fold(*(tuple(found[i][part]) for part in PARTS)) for i in range(len(found))]


def _check_fold(path: Path, number: int, fold: Fold, known: set[str]) -> None:
    seen: dict[str, str] = {}
    for part in PARTS:
        for name in getattr(fold, part):
            if name not in known:
                raise UserError(
                    f"{path}: fold {number} has patient {name} ({part}), who is not in the cohort (no target, no "
                    "features, or another spelling); correct the file, or the tables"
                )
            if name in seen:
                both = part if seen[name] == part else f"{seen[name]} and {part}"
                raise UserError(f"{path}: patient {name} is twice in fold {number} ({both}); a patient is in one part")
            seen[name] = part
    for part in ("train", "test"):
        if not getattr(fold, part):
            raise UserError(f"{path}: fold {number} has no patients in {part}")


def _said(path: Path, folds: Sequence[Fold], patients: Sequence[str], known: str, sha256: str) -> list[str]:
    notes = []
    if known and known != sha256:
        notes.append(f"{path} was made for other patients or targets than those of these tables (patients_sha256)")
    tested = [name for fold in folds for name in fold.test]
    if len(set(tested)) < len(tested):
        notes.append(f"{len(tested) - len(set(tested))} tests are of patients whom another fold tests, too")
    unused = set(patients) - {name for fold in folds for part in PARTS for name in getattr(fold, part)}
    if unused:
        notes.append(f"{len(unused)} patients of the cohort are in no fold, the first: {min(unused)}")
    empty = sum(not fold.validation for fold in folds)
    if empty:
        notes.append(f"{empty} folds have no validation part: a quarter of their training patients validates")
    return notes


def with_validation(folds: Sequence[Fold], labels: Mapping[str, int] | None, seed: int = 0) -> list[Fold]:
    """The same; where a fold has no validation part, a quarter of its training patients becomes it, stratified by
    `labels` where each class has the patients for that."""
    from sklearn.model_selection import train_test_split

    made = []
    for fold in folds:
        if not fold.validation:
            names = sorted(fold.train)
            strata = None if labels is None else [labels[name] for name in names]
            if strata is not None and min(map(strata.count, set(strata))) < FEWEST:
                strata = None
            if len(names) < FEWEST:
                raise UserError(f"a fold has {len(names)} patients to train on and none to validate; at least {FEWEST}")
            train, validation = train_test_split(names, stratify=strata, random_state=seed)
            fold = Fold(tuple(sorted(train)), tuple(sorted(validation)), fold.test)
        made.append(fold)
    return made


def check_classes(folds: Sequence[Fold], labels: Mapping[str, int], classes: Sequence[str]) -> list[str]:
    """Sentences on classes that a fold's validation or test lacks; raises UserError if its training lacks one."""
    notes = []
    for number, fold in enumerate(folds):
        for part in PARTS:
            present = {labels[name] for name in getattr(fold, part)}
            missing = [name for i, name in enumerate(classes) if i not in present]
            if missing and part == "train":
                raise UserError(
                    f"fold {number}: no training patient is {missing[0]}, so its model cannot know that class; put "
                    "some there, or leave the class out (--classes)"
                )
            if missing:
                what = "scores that need it are undefined there" if part == "test" else "its loss decides without it"
                notes.append(f"fold {number}: nobody in {part} is {', '.join(missing)}; {what}")
    return notes
