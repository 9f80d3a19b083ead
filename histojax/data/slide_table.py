"""Tables of slides: TRIDENT's custom list, CLAM's process list, the slide tables of STAMP and HistoBistro, anyone's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histojax.common.errors import UserError
from histojax.data.columns import FILE, LABEL, MPP, PATIENT, SLIDE, YES_OR_NO, is_nothing, plain, whole_numbers
from histojax.data.formats import is_tile_name, suffix_of
from histojax.data.slide_folder import SLIDE_SUFFIXES, find_in_folder
from histojax.data.table import Row, read_table
from histojax.slides.mpp import parse_mpp

TABLES = (".csv", ".tsv", ".txt")
MISSING = "do not exist"
EXPECTED = "expected a header row (slide,patient,mpp,label; only slide is needed) and one row a slide"


@dataclass(frozen=True)
class SlideRow:
    """What a row says of a slide; "" or None where it says nothing."""

    path: Path
    patient: str
    mpp: float | None
    label: str


@dataclass
class SlideTable:
    """The rows whose slide exists; (name, reason) of the others; what has to be said."""

    rows: list[SlideRow] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_slide_table(path: Path, slides_dir: Path | None = None) -> SlideTable:
    """The slides of a table in a text file with a header row.

    Columns are found by their titles, see `columns`; the column of slides is the one whose slides exist. Raises
    UserError, with the line, for an mpp that is none, and if no slide exists or no column names slides.
    """
    titles, numbered = read_table(path, f"no slides; {EXPECTED}")
    keys = [plain(title) for title in titles]
    column, places = _slide_column(path, titles, keys, [row for _, row in numbered], slides_dir)
    others = {role: _column(known, keys, column, numbered) for role, known in (("patient", PATIENT), ("label", LABEL))}
    mpp = next((keys.index(key) for key in MPP if key in keys), None)
    table = SlideTable()
    told = {role: _names(i, numbered) for role, i in others.items()}
    for i, ((line, row), place) in enumerate(zip(numbered, places)):
        if place is None:
            table.left_out.append((row[column] or f"{path}, line {line}: no name", MISSING))
            continue
        said = _mpp(path, line, titles, row, mpp)
        table.rows.append(SlideRow(place, told["patient"][i], said, told["label"][i]))
    if table.left_out:
        names = ", ".join(name for name, _ in table.left_out[:3])
        table.notes.append(f"{path}: {len(table.left_out)} of its {len(numbered)} slides do not exist: {names}")
    used = {column, mpp, *others.values()}
    ignored = [title for i, title in enumerate(titles) if i not in used and title]
    if ignored:
        table.notes.append(f"{path}: columns not used: {', '.join(ignored)} (slides are those of {titles[column]})")
    return table


def _slide_column(
    path: Path, titles: Row, keys: Sequence[str], rows: Sequence[Row], slides_dir: Path | None
) -> tuple[int, list[Path | None]]:
    """(the column of slides, where each of them lies): of the columns with a known title the one with most slides."""
    named = [keys.index(key) for key in (*SLIDE, *FILE) if key in keys]
    if not named:
        named = [i for i in range(len(keys)) if any(_has_slide_suffix(row[i]) for row in rows[:200])]
    if not named:
        raise UserError(f"{path}: none of the columns {', '.join(filter(None, titles))} is titled slide; {EXPECTED}")
    locate = _locator(path, slides_dir)
    found = {i: [locate(row[i]) for row in rows] for i in dict.fromkeys(named)}
    best = max(found, key=lambda i: sum(place is not None for place in found[i]))  # the first of those that are equal
    if not any(found[best]):
        where = f"{slides_dir} and below" if slides_dir else f"{path.parent} and {Path.cwd()}"
        raise UserError(
            f"{path}: none of its {len(rows)} slides exists, the first: {rows[0][named[0]]} (looked in {where}): "
            "name the folder of the slides with --slides-dir, or write names relative to the table"
        )
    return best, found[best]


def _has_slide_suffix(name: str) -> bool:
    return suffix_of(name) in SLIDE_SUFFIXES or is_tile_name(name)


def _locator(path: Path, slides_dir: Path | None) -> Callable[[str], Path | None]:
    """A function that finds the slide of a name, with or without suffix; folders are listed once, when first needed."""
    roots = [slides_dir] if slides_dir else list(dict.fromkeys((path.parent, Path.cwd())))
    listed: dict[Path, dict[str, list[Path]]] = {}

    def locate(name: str) -> Path | None:
        if is_nothing(name):
            return None
        name = os.path.expanduser(name)
        for root in roots:
            for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
                if (hit := _slide_at(root / spelling)) is not None:
                    return hit
        for root in roots:
            asked = root / name.replace("\\", "/")
            folder = slides_dir or asked.parent  # below a folder that was named they may lie anywhere
            if folder not in listed:
                listed[folder] = _by_name(folder, deep=slides_dir is not None)
            hits = listed[folder].get(asked.name) or listed[folder].get(_without_features(asked.name)) or []
            if len(hits) > 1:
                raise UserError(
                    f"{path}: {name} may be {hits[0]} or {hits[1]}: write the name with its suffix, relative to {root}"
                )
            if hits:
                return hits[0]
        return None

    return locate


def _slide_at(path: Path) -> Path | None:
    """The slide of that name: a file, a folder of one DICOM series, or the only slide in a folder, as GDC lays them."""
    if not path.is_dir():
        return path if path.exists() else None
    slides = find_in_folder(path).slides
    return slides[0] if len(slides) == 1 else None


def _by_name(folder: Path, deep: bool) -> dict[str, list[Path]]:
    """{name with or without its suffix: slides} of a folder, with what lies below if `deep`."""
    if not folder.is_dir():
        return {}
    if deep:
        paths = find_in_folder(folder).slides
    else:
        paths = [folder / name for name in sorted(os.listdir(folder)) if _has_slide_suffix(name)]
    known: dict[str, list[Path]] = {}
    for path in paths:
        for name in {path.name, path.stem}:
            known.setdefault(name, []).append(path)
    return known


def _without_features(name: str) -> str:
    """A name without the suffix of a feature file: what tables for the next step of a pipeline have."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("h5", "pt", "hdf5", "npz") else name


def _column(known: Sequence[str], keys: Sequence[str], slides: int, rows: Sequence[tuple[int, Row]]) -> int | None:
    """The first column with one of the titles that is not that of slides and does not answer yes or no to "case"."""
    for key in known:
        if key in keys and (i := keys.index(key)) != slides:
            cells = {row[i].lower() for _, row in rows}
            if known is not PATIENT or not cells <= YES_OR_NO:
                return i
    return None


def _names(column: int | None, rows: Sequence[tuple[int, Row]]) -> list[str]:
    """The cells of a column, "" where it is missing or they say nothing."""
    return whole_numbers(["" if column is None or is_nothing(row[column]) else row[column] for _, row in rows])


def _mpp(path: Path, line: int, titles: Row, row: Row, column: int | None) -> float | None:
    if column is None or is_nothing(row[column]):
        return None
    value, wrong = parse_mpp(row[column])
    if wrong:
        raise UserError(f"{path}: line {line}: {titles[column]} {row[column]} {wrong}")
    return value
