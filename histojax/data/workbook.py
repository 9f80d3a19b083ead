"""Tables as people keep them: text files of all kinds, and the first sheet of an Excel workbook."""

from __future__ import annotations

import warnings
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import reason
from histojax.data.table import Row, read_table

TEXT = (".csv", ".tsv", ".txt")
WORKBOOKS = (".xlsx", ".xlsm")


def read_sheet(path: Path, empty: str) -> tuple[Row, list[tuple[int, Row]]]:
    """(titles, [(line, row)]) as `data.table.read_table` gives them, of a workbook too; raises UserError.

    Of a workbook the first sheet is read, with the last values that were computed for its formulas.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"{path}: does not exist (looked in {Path.cwd()}); expected a table (.csv, .tsv, .xlsx)")
    if suffix in WORKBOOKS:
        return _titled(path, _rows(path), empty)
    if suffix not in TEXT:
        raise UserError(f"{path}: a file ending in {suffix!r} is not read as a table; save it as .csv or .xlsx")
    try:
        return read_table(path, empty)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def _rows(path: Path) -> list[tuple[int, Row]]:
    """(number of the row in the sheet, its cells as text), without blank rows."""
    from openpyxl import load_workbook

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # styles and extensions that openpyxl leaves out
            book = load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write a wrong size into the file
            found = [(i, [_text(cell) for cell in row]) for i, row in enumerate(sheet.iter_rows(values_only=True), 1)]
        finally:
            book.close()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a workbook ({error}); save it anew, or as .csv") from None
    return [(i, row) for i, row in found if any(row)]


def _titled(path: Path, rows: list[tuple[int, Row]], empty: str) -> tuple[Row, list[tuple[int, Row]]]:
    if len(rows) < 2:
        raise UserError(f"{path}: {empty}")
    (_, titles), *rows = rows
    while titles and not titles[-1]:
        titles.pop()
    width = len(titles)
    for line, row in rows:
        if any(row[width:]):
            raise UserError(f"{path}: row {line} has a value right of the last title ({titles[-1]}); give it one")
    return titles, [(line, (row + [""] * width)[:width]) for line, row in rows]


def _text(cell: Any) -> str:
    """A cell as a text file would have it."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime) and not (cell.hour or cell.minute or cell.second):
        cell = cell.date()
    return cell.isoformat() if isinstance(cell, date) else str(cell).strip()
