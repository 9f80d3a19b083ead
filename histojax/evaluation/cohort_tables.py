"""The clinical table and the slide table of a cohort, as HistoBistro, STAMP and people write them.

The clinical table has a row a patient: who, and what is to be predicted. The slide table has a row a slide: whose it
is, and which feature file. One table with all of it serves as both. Titles are found without case and signs, see
data.columns; PATIENT and FILENAME are always found.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.data.columns import (
    CENTRE,
    FILE,
    NOTHING,
    PATIENT,
    SLIDE,
    YES_OR_NO,
    by_value,
    is_nothing,
    plain,
    whole_numbers,
)
from histojax.data.workbook import read_sheet
from histojax.evaluation.results import Task

MANY = 20  # more classes than this are rather numbers, or names
TRUE, FALSE = ("1", "true", "yes", "dead", "event", "deceased"), ("0", "false", "no", "alive", "censored", "living")
EMPTY = "no patients; expected a header row (PATIENT,{target}) and one row a patient"


@dataclass(frozen=True)
class Question:
    """What is to be predicted of a patient.

    Args:
        target: title of its column; of survival the time.
        task: see `results`.
        event: survival: title of the column that says whether it happened, 1 or 0.
        classes: their order, the last of two being the positive one; rows of others are left out. Empty: those found.
        label_map: {value in the table: class}; rows with other values are left out. Empty: values are classes.
        patient, slide, centre: titles of these columns; "": by their known titles.
        every_class: whether each of `classes` must occur, as where models are trained.
    """

    target: str
    task: Task = "classification"
    event: str = ""
    classes: tuple[str, ...] = ()
    label_map: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    slide: str = ""
    centre: str = ""
    every_class: bool = True

    def __post_init__(self) -> None:
        if (self.task == "survival") != bool(self.event):
            raise UserError("survival needs two columns: --target with the time and --event with 1 (happened) or 0")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise UserError(f"--classes {','.join(self.classes)}: expected two or more different names")
        if self.task != "classification" and (self.classes or self.label_map):
            raise UserError(f"--classes and --label-map belong to classification, not to {self.task}")
        extra = set(self.label_map.values()) - set(self.classes)
        if self.classes and extra:
            raise UserError(f"--label-map gives {sorted(extra)[0]!r}, which is not one of --classes {self.classes}")


@dataclass(frozen=True)
class Clinical:
    """The patients of a clinical table whose target is known, sorted by name.

    Args:
        targets: (n,) int64 class numbers, (n,) float64 numbers, or (n, 2) float64 time and event.
        centres: {patient: centre}, where a column says so.
        left_out: (patient, reason) of the others.
        sha256: of patients and targets, so that a change of the table is noticed.
    """

    patients: tuple[str, ...]
    targets: np.ndarray
    classes: tuple[str, ...]
    centres: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of patients and targets."""
        return labels_sha256(self.patients, self.targets, self.classes)


def labels_sha256(patients: Sequence[str], targets: np.ndarray, classes: Sequence[str]) -> str:
    """SHA-256 of the lines "PATIENT<tab>TARGET", sorted; TARGET is a class or numbers as Python writes them."""
    shown = [classes[t] if classes else "\t".join(repr(float(v)) for v in np.atleast_1d(t)) for t in targets]
    lines = sorted(f"{patient}\t{target}\n" for patient, target in zip(patients, shown))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_clinical(path: Path, question: Question) -> Clinical:
    """The patients of a table; raises UserError for a column that is not there, for a patient with two different
    targets, and for values that do not fit the task."""
    titles, rows = read_sheet(path, EMPTY.format(target=question.target))
    patient = column_of(path, titles, rows, question.patient, PATIENT, "patient", "--patient-column")
    target = _named(path, titles, question.target, "--target")
    names = whole_numbers(["" if is_nothing(row[patient]) else row[patient] for _, row in rows])
    wanted = [target] + ([_named(path, titles, question.event, "--event")] if question.event else [])
    cells = [whole_numbers([row[i] for _, row in rows]) for i in wanted]
    notes: list[str] = []
    values, left_out = _one_a_patient(path, names, list(zip(*cells)), [line for line, _ in rows], notes)
    found: Mapping[str, float | list[float]]
    classes: tuple[str, ...] = ()
    if question.task == "classification":
        found, classes = _classes(path, question, values, left_out, notes)
    else:
        found = _numbers(path, question, values)
    if not found:
        raise UserError(f"{path}: no patient has a value in {titles[target]} that can be used; {_why(left_out)}")
    patients = tuple(sorted(found))
    kind = np.int64 if question.task == "classification" else np.float64
    targets = np.array([found[name] for name in patients], kind)
    centres = _centres(path, titles, rows, names, question, set(wanted) | {patient})
    return Clinical(patients, targets, classes, centres, tuple(left_out), tuple(notes))


def read_slides(path: Path, question: Question) -> list[tuple[str, str]]:
    """(patient, file name) of each row of a slide table, each pair once; raises UserError, also for a file that is
    of two patients."""
    titles, rows = read_sheet(path, "no slides; expected a header row (PATIENT,FILENAME) and one row a slide")
    patient = column_of(path, titles, rows, question.patient, PATIENT, "patient", "--patient-column")
    slide = column_of(path, titles, rows, question.slide, (*SLIDE, *FILE), "slide", "--slide-column", {patient})
    patients = whole_numbers(["" if is_nothing(row[patient]) else row[patient] for _, row in rows])
    files = whole_numbers(["" if is_nothing(row[slide]) else row[slide] for _, row in rows])
    owner: dict[str, tuple[str, int]] = {}
    for (line, _), name, file in zip(rows, patients, files):
        if not name or not file:
            continue
        known = owner.setdefault(file, (name, line))
        if known[0] != name:
            raise UserError(
                f"{path}: {file} is of two patients, {known[0]} (line {known[1]}) and {name} (line {line}); a slide "
                "belongs to one, or its patient would be in training and test: correct the table"
            )
    if not owner:
        raise UserError(f"{path}: no row has both a {titles[patient]} and a {titles[slide]}")
    return sorted((name, file) for file, (name, _) in owner.items())


def has_slides(path: Path, question: Question) -> bool:
    """Whether a clinical table names slides, too."""
    titles, _ = read_sheet(path, EMPTY.format(target=question.target))
    keys = {plain(title) for title in titles if title != question.target}
    return bool(question.slide in titles if question.slide else keys & {*SLIDE, "filename", "file"})


def column_of(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    given: str,
    known: Sequence[str],
    what: str,
    flag: str,
    taken: set[int] | None = None,
) -> int:
    """The column titled `given`, else with one of the known titles; of two such, the first in the order of `known`."""
    if given:
        return _named(path, titles, given, flag)
    keys = [plain(title) for title in titles]
    for key in known:
        for i, found in enumerate(keys):
            if found == key and i not in (taken or ()) and not _says_yes_or_no([row[i] for _, row in rows], what):
                return i
    raise UserError(
        f"{path}: none of the columns {', '.join(filter(None, titles))} is known as that of the {what}; name it with "
        f"{flag}"
    )


def _says_yes_or_no(cells: Sequence[str], what: str) -> bool:
    """Whether a column, say "case", holds answers and not names of patients."""
    found = {cell.lower() for cell in cells} - NOTHING
    return what == "patient" and bool(found) and found <= YES_OR_NO and len(cells) > 2


def _named(path: Path, titles: Sequence[str], wanted: str, flag: str) -> int:
    """The column with that title, else the only one that differs in case and signs alone; raises UserError."""
    exact = [i for i, title in enumerate(titles) if title == wanted]
    alike = [i for i, title in enumerate(titles) if plain(title) == plain(wanted)]
    if len(exact or alike) == 1:
        return (exact or alike)[0]
    if exact or alike:
        raise UserError(f"{path}: {len(exact or alike)} columns are titled {wanted}; rename all but one")
    near = difflib.get_close_matches(wanted, titles, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(filter(None, titles))}"
    raise UserError(f"{path}: has no column {wanted} ({flag}); {hint}")


def _one_a_patient(
    path: Path, names: Sequence[str], values: Sequence[tuple[str, ...]], lines: Sequence[int], notes: list[str]
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, str]]]:
    """({patient: its cells}, left out); a patient in several rows must have the same ones, empty ones aside."""
    found: dict[str, tuple[tuple[str, ...], int]] = {}
    empty: dict[str, None] = {}
    nameless = sum(not name for name in names)
    for name, value, line in zip(names, values, lines):
        if not name:
            continue
        if any(map(is_nothing, value)):
            empty[name] = None
            continue
        known = found.setdefault(name, (value, line))
        if known[0] != value:
            raise UserError(
                f"{path}: patient {name} is {' '.join(known[0])} in line {known[1]} and {' '.join(value)} in line "
                f"{line}; a patient has one target: correct the table"
            )
    again = sum(count > 1 for name, count in Counter(names).items() if name)
    if again:
        notes.append(f"{path}: {again} patients are in several rows, with the same target")
    if nameless:
        notes.append(f"{path}: {nameless} rows name no patient and are not used")
    left_out = [(name, "no target in the clinical table") for name in empty if name not in found]
    return {name: value for name, (value, _) in found.items()}, left_out


def _classes(
    path: Path,
    question: Question,
    values: Mapping[str, tuple[str, ...]],
    left_out: list[tuple[str, str]],
    notes: list[str],
) -> tuple[dict[str, int], tuple[str, ...]]:
    """({patient: class number}, names of the classes)."""
    told = {name: cells[0] for name, cells in values.items()}
    if question.label_map:
        for name, value in told.items():
            if value not in question.label_map:
                left_out.append((name, f"{question.target} is {value}, which --label-map does not have"))
        told = {name: question.label_map[value] for name, value in told.items() if value in question.label_map}
    seen = sorted(set(told.values()))
    if question.classes:
        left_out += [(name, f"class {v} is not asked for") for name, v in told.items() if v not in question.classes]
        told = {name: value for name, value in told.items() if value in question.classes}
    present = set(told.values())
    classes = question.classes or tuple(sorted(present, key=by_value))
    missing = [name for name in classes if name not in present]
    if missing and (question.every_class or not present):
        raise UserError(f"{path}: no patient is {missing[0]} ({question.target}); it has {', '.join(seen)}")
    if missing:
        notes.append(
            f"{path}: no patient is {', '.join(missing)} ({question.target}); scores that need it are undefined"
        )
    if not question.classes and not question.label_map:
        _doubt_classes(path, question, classes, len(told), notes)
    numbers = {name: i for i, name in enumerate(classes)}
    return {name: numbers[value] for name, value in told.items()}, classes


def _doubt_classes(path: Path, question: Question, classes: tuple[str, ...], count: int, notes: list[str]) -> None:
    """Says which order text gets; raises UserError for what is hardly a class."""
    if len(classes) > MANY or (len(classes) > 2 and len(classes) > count / 2):
        raise UserError(
            f"{path}: {question.target} has {len(classes)} different values ({', '.join(classes[:4])} ...) for {count} "
            "patients; of numbers --task regression, else name the classes with --classes or --label-map"
        )
    if not all(name.isdigit() for name in classes):
        last = f", {classes[-1]} is the positive one" if len(classes) == 2 else ""
        notes.append(f"classes in the order of their names: {', '.join(classes)}{last} (--classes sets another order)")
    alike = len(classes) - len({name.lower() for name in classes})
    if alike:
        notes.append(f"some classes differ in case alone: {', '.join(classes)}; --label-map joins them")


def _numbers(path: Path, question: Question, values: Mapping[str, tuple[str, ...]]) -> dict[str, float | list[float]]:
    """{patient: number}, or [time, event]."""
    found: dict[str, float | list[float]] = {}
    for name, cells in values.items():
        try:
            number = float(cells[0].replace(",", ".") if cells[0].count(",") == 1 else cells[0])
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (question.event and number < 0):
            wanted = "a time of 0 or more" if question.event else "a number"
            raise UserError(
                f"{path}: {question.target} of {name} is {cells[0]!r}, expected {wanted} for --task {question.task}"
            )
        found[name] = [number, _event(path, question, name, cells[1])] if question.event else number
    return found


def _event(path: Path, question: Question, patient: str, cell: str) -> float:
    for value, words in ((1.0, TRUE), (0.0, FALSE)):
        if cell.lower() in words or cell.lower() in {
            f"{int(value)}:{word}" for word in words
        }:  # cBioPortal's 1:DECEASED
            return value
    raise UserError(f"{path}: {question.event} of {patient} is {cell!r}, expected 1 (it happened) or 0 (it did not)")


def _centres(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    names: Sequence[str],
    question: Question,
    taken: set[int],
) -> dict[str, str]:
    """{patient: centre} of the first row of each, {} without such a column."""
    keys = [plain(title) for title in titles]
    if question.centre:
        column = _named(path, titles, question.centre, "--centre")
    else:
        column = next((keys.index(key) for key in CENTRE if key in keys and keys.index(key) not in taken), -1)
    found: dict[str, str] = {}
    if column >= 0:
        for name, (_, row) in zip(names, rows):
            if name and not is_nothing(row[column]):
                found.setdefault(name, row[column])
    return found


def _why(left_out: Sequence[tuple[str, str]]) -> str:
    if not left_out:
        return "the table has no patients"
    reason, count = Counter(reason for _, reason in left_out).most_common(1)[0]
    return f"of {len(left_out)} left out, {count}: {reason}"
