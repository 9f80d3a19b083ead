"""Tables in text files: separated by commas, semicolons, tabs or bars, in the encodings that spreadsheets write."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from absl import logging

from histojax.common.errors import UserError

Row = list[str]


def read_table(path: Path, empty: str) -> tuple[Row, list[tuple[int, Row]]]:
    """(titles, [(line, row)]), without blank rows; every row as long as the titles.

    Raises UserError with the line for a row that is not like the header, and with `empty` if there is no row below it.
    """
    lines = list(io.StringIO(_text(path), newline=""))
    start, separator = 0, ""
    while start < len(lines) and not separator:
        line = lines[start].strip()
        if named := re.fullmatch(r'"?sep=(.)"?\s*', lines[start], re.IGNORECASE):  # Excel's own first line
            start, separator = start + 1, named[1]
        elif not line.strip(",;\t|") or (line.startswith("#") and not any(s in line for s in ",;\t|")):
            start += 1  # blank, or a remark
        else:
            separator = max(",;\t|", key=line.count)
    reader = csv.reader(lines[start:], delimiter=separator or ",")
    try:
        rows = [(start + reader.line_num, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: line {start + reader.line_num} is not CSV ({error})") from None
    rows = [(line, row) for line, row in rows if any(row)]
    if len(rows) < 2:
        raise UserError(f"{path}: {empty}")
    (_, titles), *rows = rows
    titles[0] = titles[0].lstrip("#\ufeff").strip()
    while not titles[-1]:
        titles.pop()
    return titles, [(line, _fitted(path, line, row, len(titles))) for line, row in rows]


def _fitted(path: Path, line: int, row: Row, length: int) -> Row:
    """The row without empty fields behind the header's; raises UserError if it is not as long then."""
    while len(row) > length and not row[-1]:
        row = row[:-1]
    if len(row) != length:
        raise UserError(f"{path}: line {line} has {len(row)} fields ({', '.join(row[:3])}), the header has {length}")
    return row


def _text(path: Path) -> str:
    """A text file in UTF-8, UTF-16 or, said in the log, the code page of Windows; line ends as they are."""
    with open(path, "rb") as file:
        data = file.read()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not wide and data[:64].count(0) >= len(data[:64]) // 3 > 0:
        return _decoded(path, data, "utf-16-le" if data[1:2] == b"\0" else "utf-16-be")
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        logging.warning("%s: not UTF-8, read as Windows-1252; save it as UTF-8 if names look wrong", path)
        return _decoded(path, data, "cp1252")


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
