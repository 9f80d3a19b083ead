"""Which slides a person means: folders, patterns, files and tables of slides."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.find import TWICE
from histojax.data.formats import suffix_of
from histojax.data.patients import patient_of
from histojax.data.slide_folder import SLIDE_SUFFIXES, find_in_folder, is_image, is_mirax_data
from histojax.data.slide_table import TABLES, read_slide_table

ACCEPTED = (
    "accepted are slide files, folders of them (sub-folders included), patterns such as 'slides/*.svs', and tables "
    "(.csv, .tsv) with a column slide and perhaps patient, mpp and label"
)


@dataclass(frozen=True)
class SlideEntry:
    """A slide to read: the file, or a folder of one DICOM series; `mpp` only where a table gives it."""

    path: Path
    name: str
    patient: str = ""
    mpp: float | None = None
    label: str = ""


@dataclass(frozen=True)
class SlideList:
    """Slides of different names, in the order given; (path, reason) of what was left out; what has to be said."""

    entries: tuple[SlideEntry, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """E.g. 12 slides (10 .svs, 2 .ndpi) of 9 patients; left out: 3 (2 not slides, 1 named twice)."""
        kinds = Counter(suffix_of(e.path.name) if e.path.suffix else "folder of .dcm" for e in self.entries)
        patients = {e.patient for e in self.entries if e.patient}
        text = f"{len(self.entries)} slides ({_counts(kinds)})" + (f" of {len(patients)} patients" if patients else "")
        reasons = Counter(reason for _, reason in self.left_out)
        return text + (f"; left out: {len(self.left_out)} ({_counts(reasons)})" if self.left_out else "")


def find_slides(
    specs: Sequence[str | Path], slides_dir: str | Path | None = None, *, same_names: bool = False
) -> SlideList:
    """The slides that `specs` name, each once.

    A folder is searched with all below it; plain images there (.tif, .png, .jpg) are slides only if it holds no other
    slides, a MIRAX data folder is none, and a folder of DICOM files is one slide a series. In a table files are
    relative to `slides_dir` (where they may lie in sub-folders) or to the table; suffixes may be missing. Patients
    that no table tells are those of the barcode in a name. Files are not opened. Raises UserError for what does not
    exist, if there is no slide, and for two slides of one name unless `same_names` allows them.
    """
    if not specs:
        raise UserError(f"no slides given: {ACCEPTED}")
    found: list[SlideEntry] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    for spec in specs:
        part = _find(str(spec), None if slides_dir is None else expanded(slides_dir))
        found += part.entries
        left_out += part.left_out
        notes += part.notes
    entries = _each_once(found, left_out)
    if not entries:
        raise UserError(f"{', '.join(map(str, specs))}: no slides ({_why_none(left_out)}); {ACCEPTED}")
    if not same_names:
        _check_names(entries)
    return SlideList(tuple(map(_with_patient, entries)), tuple(left_out), tuple(dict.fromkeys(notes)))


def _find(spec: str, slides_dir: Path | None) -> SlideList:
    """What one of the specs names."""
    path = expanded(spec)
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet"):
            raise UserError(f"{spec}: this kind of table is not read: save it as .csv")
        return _of_table(path, slides_dir) if path.suffix.lower() in TABLES else SlideList((_entry(path),))
    if glob.has_magic(spec):
        return _of_pattern(spec, str(path))
    raise UserError(f"{spec}: does not exist (looked in {Path.cwd()}); {ACCEPTED}")


def _of_folder(path: Path) -> SlideList:
    found = find_in_folder(path)
    return SlideList(tuple(map(_entry, found.slides)), tuple(found.left_out), tuple(found.notes))


def _of_table(path: Path, slides_dir: Path | None) -> SlideList:
    table = read_slide_table(path, slides_dir)
    entries = tuple(replace(_entry(row.path), patient=row.patient, mpp=row.mpp, label=row.label) for row in table.rows)
    return SlideList(entries, tuple(table.left_out), tuple(table.notes))


def _of_pattern(spec: str, pattern: str) -> SlideList:
    """What a pattern matches that the shell left to us: slides, images, and folders as if each had been named."""
    entries: list[SlideEntry] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise UserError(f"{spec}: nothing matches this pattern (looked in {Path.cwd()}); {ACCEPTED}")
    for path in map(Path, matches):
        if path.is_dir():
            if not is_mirax_data(path):
                part = _of_folder(path)
                entries += part.entries
                left_out += part.left_out
                notes += part.notes
        elif suffix_of(path.name) in SLIDE_SUFFIXES or is_image(path.name):
            entries.append(_entry(path))
        else:
            left_out.append((str(path), "not slides"))
    return SlideList(tuple(entries), tuple(left_out), tuple(notes))


def _entry(path: Path) -> SlideEntry:
    return SlideEntry(path, path.name if path.is_dir() else path.stem)


def _each_once(entries: Sequence[SlideEntry], left_out: list[tuple[str, str]]) -> list[SlideEntry]:
    """The slides, those named twice once, with whatever either naming tells; raises UserError where two contradict."""
    known: dict[str, SlideEntry] = {}
    for entry in entries:
        key = os.path.realpath(entry.path)
        if key in known:
            left_out.append((str(entry.path), TWICE))
            entry = _both(known[key], entry)
        known[key] = entry
    return list(known.values())


def _both(first: SlideEntry, second: SlideEntry) -> SlideEntry:
    told = {}
    for field in ("patient", "mpp", "label"):
        a, b = getattr(first, field), getattr(second, field)
        if a and b and a != b:
            raise UserError(f"{first.path}: is named twice, with the {field}s {a} and {b}: keep one of the rows")
        told[field] = a or b
    return replace(first, **told)


def _check_names(entries: Sequence[SlideEntry]) -> None:
    """Raises UserError if two slides have one name: their tiles and features could not be told apart."""
    known: dict[str, SlideEntry] = {}
    for entry in entries:
        other = known.setdefault(entry.name.casefold(), entry)
        if other is not entry:
            raise UserError(
                f"{other.path} and {entry.path}: two slides of one name ({entry.name}), which names their tiles and "
                "features: rename one of the files, or leave one out"
            )


def _with_patient(entry: SlideEntry) -> SlideEntry:
    return entry if entry.patient else replace(entry, patient=patient_of(entry.name) or patient_of(str(entry.path)))


def _why_none(left_out: Sequence[tuple[str, str]]) -> str:
    reasons = Counter(reason for _, reason in left_out)
    return f"left out: {_counts(reasons)}" if reasons else "nothing there"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counter.most_common(6))
