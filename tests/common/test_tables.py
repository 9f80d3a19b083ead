"""Tables that are whole or not there."""

import pytest

from histojax.common.errors import UserError
from histojax.common.files import make_folder
from histojax.common.tables import csv_text, write_table


def test_rows_come_out_as_they_went_in(tmp_path):
    rows = [("a,b", 1), ("bad\udcffname", 2)]
    write_table(tmp_path / "t.csv", ("name", "n"), iter(rows))
    assert (tmp_path / "t.csv").read_bytes() == b'name,n\n"a,b",1\nbad\xffname,2\n'
    assert csv_text(("name", "n"), rows[:1]) == 'name,n\n"a,b",1\n'


def test_without_a_row_there_is_no_file(tmp_path):
    write_table(tmp_path / "t.csv", ("name",), [("a",)])
    write_table(tmp_path / "t.csv", ("name",), [])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")
