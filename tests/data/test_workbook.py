"""A workbook and a text file of the same table read the same."""

from __future__ import annotations

from datetime import datetime

import pytest
from openpyxl import Workbook

from histojax.common.errors import UserError
from histojax.data.workbook import read_sheet


def save(path, rows):
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("other").append(["not", "read"])
    book.save(path)


def test_a_workbook_reads_as_its_csv(tmp_path):
    save(tmp_path / "a.xlsx", [["PATIENT", "x", "when"], ["P1", 1.0, datetime(2020, 1, 2)], [None] * 3, ["P2 ", 0.5]])
    (tmp_path / "a.csv").write_text("PATIENT,x,when\nP1,1,2020-01-02\n\nP2,0.5,\n")
    titles, rows = read_sheet(tmp_path / "a.xlsx", "empty")
    assert titles == ["PATIENT", "x", "when"]
    assert rows == [(2, ["P1", "1", "2020-01-02"]), (4, ["P2", "0.5", ""])]
    assert read_sheet(tmp_path / "a.csv", "empty") == (titles, rows)


def test_what_is_no_table_is_named(tmp_path):
    save(tmp_path / "empty.xlsx", [["PATIENT"]])
    save(tmp_path / "wide.xlsx", [["PATIENT"], ["P1", None, 3]])
    (tmp_path / "broken.xlsx").write_bytes(b"PK\3\4 not a workbook")
    (tmp_path / "a.ods").write_bytes(b"")
    for name, match in [
        ("empty.xlsx", "no rows"),
        ("wide.xlsx", "row 2 has a value right of the last title"),
        ("broken.xlsx", "cannot be read as a workbook"),
        ("a.ods", "save it as .csv or .xlsx"),
        ("gone.csv", "does not exist"),
    ]:
        with pytest.raises(UserError, match=match):
            read_sheet(tmp_path / name, "no rows")
