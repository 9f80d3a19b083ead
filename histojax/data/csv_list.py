"""CSV lists of tiles, as the spreadsheets of any country write them: columns of files, classes and patients."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from histojax.common.errors import UserError
from histojax.data.formats import SUFFIXES

FILE = ("file", "path", "filename", "file_name", "filepath", "file_path", "image", "image_path", "tile", "tile_path")
LABEL = ("label", "class")
GROUP = ("group", "patient", "patient_id", "slide", "slide_id")  # of several the first: a patient has many slides
EXPECTED = "expected a header row (file,label,patient) and one row an image"


@dataclasses.dataclass(frozen=True)
class TileList:
    """The rows of a list: names of files, and the class and the patient or slide of each if a column says so."""

    names: list[str]
    labels: list[str] | None
    groups: list[str] | None


def read_list(path: Path) -> TileList:
    """The list in a UTF-8 file with a header row, separated by commas, semicolons or tabs.

    Columns are found by their names (FILE, LABEL, GROUP, in any case and order); without a name of FILE the first
    column is the file. What is not read is named in the log. A name with backslashes that does not exist as it is
    gets slashes. Raises UserError when the header or a row is not like that.
    """
    titles, rows = _read(path)
    header = [title.lower().replace(" ", "_").replace("-", "_") for title in titles]
    file, label, group = (_position(header, names) for names in (FILE, LABEL, GROUP))
    if file is None and 0 not in (label, group):
        file = 0
    if file is None:
        raise UserError(f"{path}: none of the columns {', '.join(titles)} is named file; {EXPECTED}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not row[file]:
            raise UserError(f"{path}: row {number} has {len(row)} fields {row[:3]}, the header has {len(header)}")
    _say_ignored(path, titles, (file, label, group))
    names = [_with_slashes(path.parent, row[file]) for row in rows]
    labels, groups = (None if i is None else [row[i] for row in rows] for i in (label, group))
    return TileList(names, labels, groups)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """(titles, rows), without blank rows."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet's byte order mark is not a name
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            rows = [[field.strip() for field in row] for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if len(rows) < 2:
        raise UserError(f"{path}: no records; {EXPECTED}")
    if any(title.lower().endswith(SUFFIXES) for title in rows[0]):
        raise UserError(f"{path}: the first row is {','.join(rows[0])}; {EXPECTED}")
    return rows[0], rows[1:]


def _position(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _say_ignored(path: Path, titles: Sequence[str], read: tuple[int | None, ...]) -> None:
    ignored = [title for i, title in enumerate(titles) if i not in read and title]
    if ignored:
        roles = zip(("file", "label", "group"), read)
        known = ", ".join(f"{titles[i]} as {role}" for role, i in roles if i is not None)
        logging.warning("%s: columns ignored: %s (read: %s)", path, ", ".join(ignored), known)


def _with_slashes(folder: Path, name: str) -> str:
    if "\\" not in name or os.path.exists(os.path.join(folder, name)):
        return name
    return name.replace("\\", "/")
