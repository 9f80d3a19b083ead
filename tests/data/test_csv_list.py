"""Lists as spreadsheets write them, opened as tiles."""

import numpy as np
import pytest
from tile_files import make_folder

from histojax.common.errors import UserError
from histojax.data.csv_list import read_list
from histojax.data.sources import open_source

ROWS = [("images/tile_000.png", "tumour", "P1"), ("images/tile_001.png", "stroma", "P2")]


@pytest.fixture
def place(tmp_path):
    """A folder with two tiles."""
    make_folder(tmp_path / "images", {"": 2})
    return tmp_path


def write(folder, header, rows, separator=",", newline="\n", mark="", name="list.csv"):
    text = newline.join(separator.join(row) for row in (header, *rows)) + newline
    (folder / name).write_bytes((mark + text).encode())
    return folder / name


def opened(path):
    """The source, and that it is what ROWS say."""
    source = open_source(path)
    assert source.classes == ("stroma", "tumour") and source.labels.tolist() == [1, 0]
    assert source.groups.tolist() == ["P1", "P2"]
    assert [int(source.read(i)[0, 0, 0]) for i in range(2)] == [0, 1]
    return source


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_what_spreadsheets_write(place, separator, newline, mark):
    opened(write(place, ("file", "label", "patient"), ROWS, separator, newline, mark))


def test_tabs_in_a_tsv_and_quotes_around_commas(place):
    opened(write(place, ("file", "label", "patient"), ROWS, "\t", name="list.tsv"))
    quoted = [(f'"{file}"', '"a, b"', "P") for file, _, _ in ROWS]
    assert open_source(write(place, ("file", "label", "patient"), quoted)).classes == ("a, b",)


def test_windows_separators_of_files_that_are_otherwise_missing(place):
    windows = [(file.replace("/", "\\"), *rest) for file, *rest in ROWS]
    opened(write(place, ("file", "label", "patient"), windows))
    odd = place / "odd\\name.png"
    odd.write_bytes((place / "images" / "tile_001.png").read_bytes())
    source = open_source(write(place, ("file",), [("odd\\name.png",)]))
    assert source.read(0)[0, 0, 0] == 1


@pytest.mark.parametrize(
    "header",
    [
        ("file", "label", "patient"),
        ("Path", "Class", "Patient ID"),
        ("filename", "class", "slide"),
        ("my tiles", "label", "group"),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_columns_are_found_by_their_names(place, header, order, caplog):
    opened(write(place, [header[i] for i in order], [[row[i] for i in order] for row in ROWS]))
    assert "ignored" not in caplog.text


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_the_file_need_not_come_first(place, order):
    header = ("file", "label", "patient")
    opened(write(place, [header[i] for i in order], [[row[i] for i in order] for row in ROWS]))


def test_columns_that_are_not_read_are_named(place, caplog):
    rows = [(*row, "1", "x") for row in ROWS]
    opened(write(place, ("file", "class", "patient", "Stain", "slide"), rows))
    assert (
        "list.csv: columns ignored: Stain, slide (read: file as file, class as label, patient as group)" in caplog.text
    )


def test_no_column_of_files(place):
    with pytest.raises(UserError, match="none of the columns label, tile number is named file"):
        open_source(write(place, ("label", "tile number"), [("tumour", "1")]))


def test_names_are_kept_as_they_are_written(place):
    found = read_list(write(place, ("file", "label"), [("images/tile_000.png", ""), ("gone\\away.png", "x")]))
    assert found.names == ["images/tile_000.png", "gone/away.png"]
    assert found.labels == ["", "x"] and found.groups is None
    assert np.array_equal(open_source(place / "list.csv").labels, [-1, 0])
