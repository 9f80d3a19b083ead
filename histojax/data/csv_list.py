"""Tables of tiles, as spreadsheets and tools of any country write them: files, classes, patients, slides."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from histojax.common.errors import UserError
from histojax.data.columns import EXPECTED, Columns, find_columns, is_nothing, plain, whole_numbers
from histojax.data.find import TWICE, Found
from histojax.data.formats import OTHER_OF, is_tile_name, suffix_of
from histojax.data.layout import is_split, spellings_said
from histojax.data.patients import patients_of
from histojax.data.table import Row, read_table

FOLDER = -2  # in place of a size


@dataclasses.dataclass(frozen=True)
class TileList:
    """The rows of a table: tiles, relative to `root`, and what its columns say of each."""

    root: Path
    found: Found
    labels: list[str] | None
    groups: list[str] | None
    group_kind: str  # patient, slide, sample, or group: a column of that title
    notes: list[str]


def read_list(path: Path) -> TileList:
    """The table in a text file with a header row, separated by commas, semicolons, tabs or bars.

    Columns are found by their titles, see `columns`; what is not read is named in the log. Files are relative to the
    table's folder or, if none is there and some are here, to the current one. Raises UserError, with the line, for a
    row that is not like the header, for a tile with two classes, and if none of the files exists.
    """
    titles, numbered = read_table(path, f"no tiles; {EXPECTED}")
    if any(is_tile_name(title) for title in titles):
        raise UserError(f"{path}: the first row is {','.join(titles)}; {EXPECTED}")
    lines, rows = [number for number, _ in numbered], [row for _, row in numbered]
    columns = find_columns(path, titles, rows)
    _say_ignored(path, titles, rows, columns)
    notes: list[str] = []
    for line, row in numbered:
        if not row[columns.file]:
            raise UserError(f"{path}: line {line} names no file ({','.join(row[:3])})")
        if "://" in row[columns.file]:
            raise UserError(f"{path}: line {line} names {row[columns.file]}: download the tiles first")
    labels = _values(rows, columns.label, "label", notes)
    root, names, sizes = _locate(path, [row[columns.file] for row in rows], notes)
    keep, found = _each_once(path, lines, names, sizes, labels)
    rows, labels = [rows[i] for i in keep], labels and [labels[i] for i in keep]
    groups, kind = _groups(rows, columns, notes)
    if groups is None and (patients := patients_of(found.names)):
        groups, kind = patients, "patient"
    notes += spellings_said(labels or ())
    if columns.split is not None and any(is_split(row[columns.split]) for row in rows):
        parts = sorted({row[columns.split] for row in rows})
        notes.append(
            f"its column {titles[columns.split]} ({', '.join(parts[:4])}) is not used, the parts are read together: "
            "write a table for each to keep them apart"
        )
    return TileList(root, found, labels, groups, kind, notes)


def _say_ignored(path: Path, titles: Row, rows: Sequence[Row], columns: Columns) -> None:
    read = columns.read()
    used = {read.get("file"), read.get("label"), *(i for role, i in read.items() if role in ("patient", "slide"))}
    used |= {read.get("sample"), read.get("group")} if not {"patient", "slide"} & set(read) else set()
    ignored = [t for i, t in enumerate(titles) if i not in used and t and not _is_index(t, [row[i] for row in rows])]
    if ignored:
        known = ", ".join(f"{titles[i]} as {role}" for role, i in read.items() if i in used)
        logging.warning("%s: columns ignored: %s (read: %s)", path, ", ".join(ignored), known)


def _is_index(title: str, cells: Sequence[str]) -> bool:
    """Whether a column is the row numbers that pandas writes."""
    return bool(re.fullmatch(r"(unnamed\d+|index|)", plain(title))) and all(cell.isdigit() for cell in cells)


def _values(rows: Sequence[Row], column: int | None, role: str, notes: list[str]) -> list[str] | None:
    """The cells of a column, "" where they say nothing; 1.0 is 1."""
    if column is None:
        return None
    cells = ["" if is_nothing(row[column]) else row[column] for row in rows]
    words = sorted({row[column] for row, cell in zip(rows, cells) if row[column] and not cell})
    if words:
        count = sum(bool(row[column]) and not cell for row, cell in zip(rows, cells))
        notes.append(f"{count} tiles have no {role} ({', '.join(words)})")
    cells = whole_numbers(cells)
    kinds = len(set(cells) - {""})
    if role == "label" and kinds > 20 and kinds > len(rows) / 2:
        notes.append(f"{kinds} different labels on {len(rows)} tiles: are they classes?")
    return cells


def _groups(rows: Sequence[Row], columns: Columns, notes: list[str]) -> tuple[list[str] | None, str]:
    """(patient or slide of each row, what they are): the largest unit that the table knows."""
    slides = _values(rows, columns.slide, "slide", [])
    patients = _values(rows, columns.patient, "patient", notes)
    if patients is not None and any(patients):
        patients = patients_of(patients) or patients  # a sample's barcode begins with its patient's
        return _by_slide(patients, slides, notes), "patient"
    for kind, values in (
        ("group", _values(rows, columns.group, "group", notes)),
        ("sample", _values(rows, columns.sample, "sample", notes)),
        ("slide", slides),
    ):
        if values is not None and any(values):
            known = patients_of(values)
            return (known, "patient") if known else (values, kind)
    return None, ""


def _by_slide(patients: list[str], slides: list[str] | None, notes: list[str]) -> list[str]:
    """The patients, those that are missing looked up by their slide; says where a slide has two."""
    if slides is None or all(
        len(slide) < 3 and slide.isdigit() for slide in slides if slide
    ):  # 1, 2, 3 of each patient are no names
        return patients
    owners: dict[str, set[str]] = {}
    for slide, patient in zip(slides, patients):
        if slide and patient:
            owners.setdefault(slide, set()).add(patient)
    for slide, known in owners.items():
        if len(known) > 1:
            notes.append(f"the slide {slide} has {len(known)} patients: {', '.join(sorted(known)[:3])}")
            break
    return [p or (min(owners[s]) if len(owners.get(s, ())) == 1 else s) for p, s in zip(patients, slides)]


def _locate(path: Path, names: list[str], notes: list[str]) -> tuple[Path, list[str], list[int]]:
    """(folder that the names are relative to, names, sizes, -1 where missing); raises UserError if all are missing."""
    places = [path.parent] + ([Path.cwd()] if Path.cwd() != path.parent.resolve() else [])
    for root in places:
        here = [_with_slashes(root, os.path.expanduser(name)) for name in names]
        sizes = [_size(root / name) for name in here]
        if FOLDER in sizes:
            raise UserError(
                f"{path}: {here[sizes.index(FOLDER)]} is a folder: name its tiles, one row each, or give the folder "
                "itself as data"
            )
        if max(sizes) >= 0:
            if root != path.parent:
                notes.append(f"its files are not beside it but in the current folder, {root}: taken from there")
            return root, here, sizes
    raise UserError(
        f"{path}: none of its {len(names)} files exists, the first: {names[0]} (looked for in "
        f"{' and '.join(map(str, places))}); names are relative to the table's folder{_hint(path.parent, names[0])}"
    )


def _hint(folder: Path, name: str) -> str:
    """Where a missing file could be, "" if nothing like it is there."""
    if archives := sorted(path.name for path in folder.glob("*.zip")):
        return f". There is {archives[0]} beside it: unpack it"
    last = re.split(r"[/\\]", name)[-1]
    for place in dict.fromkeys((os.path.join(folder, os.path.dirname(name)), str(folder))):
        near = sorted(os.listdir(place)) if os.path.isdir(place) else []
        for found in near:
            if found == last:
                return f". There is {found} beside it: write names relative to the table"
            if os.path.splitext(found)[0] == last or found.lower() == last.lower():
                return f". There is {found}: write names as the files have them"
    return ""


def _size(path: Path) -> int:
    """Bytes of a file, -1 if there is none, FOLDER for a folder."""
    try:
        facts = os.stat(path)
        return FOLDER if stat.S_ISDIR(facts.st_mode) else facts.st_size
    except (OSError, ValueError):
        return -1


def _with_slashes(folder: Path, name: str) -> str:
    if "\\" not in name or os.path.exists(os.path.join(folder, name)):
        return name
    return name.replace("\\", "/")


def _each_once(
    path: Path, lines: Sequence[int], names: Sequence[str], sizes: Sequence[int], labels: Sequence[str] | None
) -> tuple[list[int], Found]:
    """(rows that are kept, their tiles): each file once; raises UserError for one with two classes."""
    found, keep = Found(), []
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if suffix_of(name) in OTHER_OF:
            found.leave_out(name)
            continue
        j = first.setdefault(name, i)
        if j == i:
            keep.append(i)
            continue
        if labels and labels[i] != labels[j]:
            raise UserError(
                f"{path}: lines {lines[j]} and {lines[i]} give {name} two labels, {labels[j] or 'none'} and "
                f"{labels[i] or 'none'}: keep one"
            )
        found.leave_out(name, TWICE)
    found.names, found.sizes = [names[i] for i in keep], [sizes[i] for i in keep]
    return keep, found
