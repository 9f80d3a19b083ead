"""A cohort: the patients of a clinical table, each with the tiles of their slides and what is to be predicted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.patients import patient_of
from histojax.evaluation.bag_files import BagFile, BagFiles, cut, find_bags
from histojax.evaluation.cohort_tables import (
    Clinical,
    Question,
    has_slides,
    labels_sha256,
    read_clinical,
    read_slides,
)
from histojax.evaluation.mil.bags import Bag, checked
from histojax.features.stored import Header, check_mixable

Choice = Literal["all", "first", "each"]
CHOICES: dict[Choice, str] = {
    "all": "one bag a patient with the tiles of all slides",
    "first": "one bag a patient: the first slide by name",
    "each": "one bag a slide; a patient's prediction is the mean over the slides",
}
Left = tuple[str, str]  # (what, reason)
KEPT = 4 << 30  # bytes of features that stay in memory from the first reading on


@dataclass(frozen=True)
class Cohort:
    """Bags with what is to be predicted of them.

    Args:
        units: (n,) str: patients, or slides (choice "each"); sorted by patient, then slide.
        patients: (n,) str, whose bag it is.
        targets: see `Clinical`, a row a unit.
        centres: (n,) str, "" where unknown; None where no table says.
        slides: in words, which slides of each patient are used.
        headers: of the feature files.
        files: names of the slides that are used.
        left_out: (patient, slide or file, reason) of all that is in one of the tables or folders and not here.
    """

    question: Question
    classes: tuple[str, ...]
    units: np.ndarray
    patients: np.ndarray
    bags: tuple[Bag, ...]
    targets: np.ndarray
    centres: np.ndarray | None
    slides: str
    headers: tuple[Header, ...]
    files: tuple[str, ...]
    left_out: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def each(self) -> bool:
        """Whether units are slides."""
        return self.slides == CHOICES["each"]

    @property
    def sha256(self) -> str:
        """Of the patients and their targets, see `cohort_tables.labels_sha256`."""
        names, first = np.unique(self.patients, return_index=True)
        return labels_sha256(names.tolist(), self.targets[first], self.classes)

    def take(self, rows: np.ndarray) -> Cohort:
        """The same with some of its units."""
        return replace(
            self,
            units=self.units[rows],
            patients=self.patients[rows],
            bags=tuple(self.bags[i] for i in rows),
            targets=self.targets[rows],
            centres=None if self.centres is None else self.centres[rows],
        )

    def summary(self) -> str:
        """E.g. 60 patients (0: 32, 1: 28), 61 bags of 5 to 60 tiles, median 60; left out: 3 (2 no feature file)."""
        names, first = np.unique(self.patients, return_index=True)
        text = f"{len(names)} patients"
        if self.classes:
            counts = np.bincount(self.targets[first], minlength=len(self.classes))
            text += f" ({', '.join(f'{name}: {count}' for name, count in zip(self.classes, counts))})"
        if self.question.event:
            text += f" ({int(self.targets[first, 1].sum())} events)"
        tiles = [bag.tiles for bag in self.bags]
        text += f", {len(tiles)} bags of {min(tiles)} to {max(tiles)} tiles, median {np.median(tiles):g}"
        reasons = Counter(reason for _, reason in self.left_out)
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(4))
        return text + (f"; left out: {len(self.left_out)} ({counted})" if reasons else "")


def read_cohort(
    features: Sequence[str | os.PathLike],
    clini: str | os.PathLike,
    slides: str | os.PathLike | None,
    question: Question,
    choice: Choice = "all",
    skip_bad: bool = False,
) -> Cohort:
    """The cohort that two tables and folders of feature files make.

    Without a slide table, and if the clinical table names no slides, a feature file (or a group in one) belongs to the
    patient of its name, or of the barcode in its name. Patients without target or features, slides without file and
    files without patient are left out, counted and named. Raises UserError for damaged files (unless `skip_bad` leaves
    them out), mixed encoders, contradicting tables, and if nobody is left.
    """
    path = expanded(clini)
    clinical = read_clinical(path, question)
    table = expanded(slides) if slides is not None else (path if has_slides(path, question) else None)
    files = find_bags(features)
    left_out = list(clinical.left_out)
    if table is None:
        owned = _by_name(files, clinical, left_out)
    else:
        owned = _by_table(files, read_slides(table, question), clinical, left_out)
    _bad(files, skip_bad, left_out)
    left_out += files.empty
    left_out += [(name, "no features") for name in clinical.patients if name not in owned]
    if not owned:
        raise UserError(_nobody(path, table, features, files, clinical))
    used = {id(bag) for bags in owned.values() for bag in bags}
    left_out += [(b.name, "a feature file of no patient who counts") for b in files.bags if id(b) not in used]
    headers = list({bag.header.path: bag.header for bags in owned.values() for bag in bags}.values())
    notes = [*clinical.notes, *check_mixable(headers)]
    return _assembled(question, clinical, owned, choice, headers, left_out, notes)


def read_unlabelled(
    features: Sequence[str | os.PathLike],
    slides: str | os.PathLike | None,
    question: Question,
    choice: Choice = "all",
    skip_bad: bool = False,
) -> Cohort:
    """The same without a clinical table, to be predicted only: all targets are NaN, and there are no classes.

    Patients are those of the slide table; without one those of the barcodes in the names, else each file is one.
    """
    files = find_bags(features)
    if slides is None:
        rows = [(patient_of(bag.name) or bag.name, bag.name) for bag in files.bags]
    else:
        rows = read_slides(expanded(slides), question)
    patients = tuple(sorted({patient for patient, _ in rows}))
    clinical = Clinical(patients, np.full(len(patients), np.nan), (), {}, (), ())
    left_out: list[Left] = []
    owned = _by_table(files, rows, clinical, left_out)
    _bad(files, skip_bad, left_out)
    if not owned:
        raise UserError(f"none of the {len(rows)} slides of {slides or 'no table'} has a feature file with tiles")
    headers = list({bag.header.path: bag.header for bags in owned.values() for bag in bags}.values())
    left_out += files.empty
    return _assembled(question, clinical, owned, choice, headers, left_out, check_mixable(headers))


def _by_table(
    files: BagFiles, rows: Sequence[tuple[str, str]], clinical: Clinical, left_out: list[Left]
) -> dict[str, list[BagFile]]:
    """{patient: bags in the order of their names} of the rows of a slide table."""
    known = set(clinical.patients)
    nothing = {name for name, _ in [*files.empty, *files.bad]}
    owned: dict[str, dict[int, BagFile]] = {}
    owner: dict[int, tuple[str, str]] = {}
    for patient, slide in rows:
        bag = files.find(slide) if patient in known else None
        if patient not in known:
            left_out.append((slide, "a slide of a patient who is not in the clinical table, or has no target"))
        elif bag is None:
            if not {slide, cut(slide)} & nothing:
                left_out.append((slide, "no feature file"))
        else:
            first = owner.setdefault(id(bag), (patient, slide))
            if first[0] != patient:
                raise UserError(
                    f"{bag.header.path} would be of two patients, {first[0]} (as {first[1]}) and {patient} (as "
                    f"{slide}); write the names of files in full in the slide table"
                )
            owned.setdefault(patient, {})[id(bag)] = bag
    return {name: sorted(bags.values(), key=lambda bag: bag.name) for name, bags in sorted(owned.items())}


def _by_name(files: BagFiles, clinical: Clinical, left_out: list[Left]) -> dict[str, list[BagFile]]:
    """The same without a slide table."""
    known = set(clinical.patients)
    owned: dict[str, list[BagFile]] = {}
    for bag in files.bags:
        ways = (bag.name, cut(bag.name), patient_of(bag.name))
        if patient := next((name for name in ways if name in known), ""):
            owned.setdefault(patient, []).append(bag)
    return {name: sorted(bags, key=lambda bag: bag.name) for name, bags in sorted(owned.items())}


def _bad(files: BagFiles, skip_bad: bool, left_out: list[Left]) -> None:
    if files.bad and not skip_bad:
        count = f" ({len(files.bad)} such files)" if len(files.bad) > 1 else ""
        raise UserError(f"{files.bad[0][1]}{count}; or leave them out with --skip-bad")
    left_out += files.bad


def _nobody(
    clini: Path, slides: Path | None, features: Sequence[str | os.PathLike], files: BagFiles, clinical: Clinical
) -> str:
    """Why no patient has features, with a name of each side."""
    file = files.bags[0].name if files.bags else f"none with tiles, {len(files.empty)} empty"
    by = f"{slides} leads from one to the other" if slides else "no slide table was given, so names must be equal"
    return (
        f"no patient has both a target and features: {clini} has {len(clinical.patients)} patients (the first: "
        f"{clinical.patients[0]}), {', '.join(map(str, features))} has {len(files.bags)} bags (the first: {file}), "
        f"and {by}"
    )


def _assembled(
    question: Question,
    clinical: Clinical,
    owned: Mapping[str, list[BagFile]],
    choice: Choice,
    headers: Sequence[Header],
    left_out: list[Left],
    notes: list[str],
) -> Cohort:
    row = {name: i for i, name in enumerate(clinical.patients)}
    units: list[tuple[str, str, Bag]] = []  # patient, unit, bag
    files: list[str] = []
    for patient, bags in owned.items():
        if choice == "each":
            units += [(patient, bag.name, _joined(bag.name, [bag])) for bag in bags]
            files += [bag.name for bag in bags]
        else:
            kept = bags if choice == "all" else bags[:1]
            left_out += [(bag.name, "not the first slide of its patient") for bag in bags[len(kept) :]]
            units.append((patient, patient, _joined(patient, kept)))
            files += [bag.name for bag in kept]
    patients = np.array([patient for patient, _, _ in units])
    several = sum(len(bags) > 1 for bags in owned.values())
    if several:
        notes.append(f"{several} of {len(owned)} patients have several slides: {CHOICES[choice]}")
    centres = [clinical.centres.get(patient, "") or _tissue_source_site(patient) for patient in patients]
    return Cohort(
        question,
        clinical.classes,
        np.array([unit for _, unit, _ in units]),
        patients,
        tuple(bag for _, _, bag in units),
        clinical.targets[[row[patient] for patient in patients]],
        np.array(centres) if any(centres) else None,
        CHOICES[choice],
        tuple(headers),
        tuple(files),
        tuple(left_out),
        tuple(notes),
    )


def _tissue_source_site(patient: str) -> str:
    """The hospital in a TCGA barcode; "" for other names."""
    found = re.fullmatch(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}", patient.upper())
    return f"TCGA site {found[1]}" if found else ""


def _joined(name: str, bags: Sequence[BagFile]) -> Bag:
    """One bag of several files; changed copies only where all of them have some."""
    tiles = sum(bag.tiles for bag in bags)
    if len(bags) == 1:
        return Bag(name, bags[0].load, tiles, bags[0].augmented)
    draws = [bag.augmented for bag in bags if bag.augmented is not None]
    augmented = None
    if len(draws) == len(bags):
        augmented = lambda rng: np.concatenate([draw(rng) for draw in draws])  # noqa: E731
    return Bag(name, lambda: np.concatenate([bag.load() for bag in bags]), tiles, augmented)


def read_means(
    cohort: Cohort, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None, keep: int = KEPT
) -> tuple[Cohort, np.ndarray]:
    """(the cohort, (n, d) float32 mean tile of each bag), after every bag has been read once.

    So a file with numbers that are not finite, or a damaged one, is found before hours of training; the first `keep`
    bytes stay in memory. Raises UserError for the first bad bag and counts them; with `skip_bad` they are left out
    instead. `progress` gets bags and tiles done.
    """
    means: list[np.ndarray] = []
    good: list[int] = []
    bags = list(cohort.bags)
    bad: list[Left] = []
    tiles = 0
    for i, bag in enumerate(cohort.bags):
        try:
            x = checked(bag, bag.load())
            means.append(x.mean(axis=0, dtype=np.float64).astype(np.float32))
            good.append(i)
            if x.nbytes <= keep:
                keep -= x.nbytes
                bags[i] = replace(bag, load=giving(x))
        except UserError as error:
            bad.append((bag.name, str(error)))
        tiles += bag.tiles
        if progress:
            progress(i + 1, tiles)
    if bad and (not skip_bad or not good):
        count = f" ({len(bad)} of {len(cohort.bags)} bags cannot be used)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0][1]}{count}; or leave them out with --skip-bad")
    cohort = replace(cohort, bags=tuple(bags), left_out=(*cohort.left_out, *bad))
    return (cohort.take(np.array(good)) if bad else cohort), np.stack(means)


def giving(x: np.ndarray) -> Callable[[], np.ndarray]:
    """A loader of what is in memory."""
    return lambda: x
