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
        "list.csv: columns ignored: Stain (read: file as file, class as label, patient as patient, slide as slide)"
        in caplog.text
    )


def test_no_column_of_files(place):
    with pytest.raises(UserError, match="none of the columns label, tile number is titled file"):
        open_source(write(place, ("label", "tile number"), [("tumour", "1")]))


def test_names_are_kept_as_they_are_written(place):
    found = read_list(write(place, ("file", "label"), [("images/tile_000.png", ""), ("gone\\away.png", "x")]))
    assert found.found.names == ["images/tile_000.png", "gone/away.png"]
    assert found.labels == ["", "x"] and found.groups is None
    assert np.array_equal(open_source(place / "list.csv").labels, [-1, 0])


TITLES = {
    "CLAM": ("tile", "label", "case_id", "slide_id"),
    "STAMP": ("tile", "label", "PATIENT", "FILENAME"),
    "GDC": ("tile", "label", "cases.submitter_id", "slide"),
    "TCGA": ("tile", "label", "bcr_patient_barcode", "slide_barcode"),
    "camel": ("TilePath", "ClassName", "PatientID", "SlideName"),
    "spaces": ("image path", "Tissue Type", "Patient ID", "WSI name"),
    "pandas": ("", "file", "target", "subject", "wsi"),
}


@pytest.mark.parametrize("titles", TITLES.values(), ids=TITLES)
def test_patients_and_slides_in_known_spellings(place, titles):
    rows = [(*ROWS[i][:2], patient, f"s{i}.svs") for i, patient in enumerate(("P1", "P2"))]
    rows = [(str(i), *row) if titles[0] == "" else row for i, row in enumerate(rows)]
    source = opened(write(place, titles, rows))
    assert source.facts.group_kind == "patient" and not source.facts.notes
    assert source.facts.found == "2 tiles (2 .png)"


@pytest.mark.parametrize(
    ("title", "values", "kind", "groups"),
    [
        ("slide_id", ("A", "B"), "slide", ["A", "B"]),
        ("slide_id", ("TCGA-A1-A0SB-01Z-00-DX1.svs", "tcga-a1-a0sb-01Z"), "patient", ["TCGA-A1-A0SB"] * 2),
        ("submitter_id", ("TCGA-A1-A0SB-01A", "TCGA-A1-A0SB-02A"), "patient", ["TCGA-A1-A0SB"] * 2),
        ("sample", ("a", "b"), "sample", ["a", "b"]),
        ("group", ("a", "b"), "group", ["a", "b"]),
        ("patient", ("nan", "7"), "patient", ["", "7"]),
        ("centre", ("a", "b"), "", None),
    ],
)  # fmt: skip
def test_groups_are_called_what_they_are(place, title, values, kind, groups):
    rows = [(*row[:2], value) for row, value in zip(ROWS, values)]
    source = open_source(write(place, ("file", "label", title), rows))
    assert source.facts.group_kind == kind
    assert (None if source.groups is None else source.groups.tolist()) == groups


def test_a_missing_patient_is_looked_up_by_the_slide(place):
    rows = [(*ROWS[0][:2], "P1", "S1"), (*ROWS[1][:2], "", "S1")]
    assert open_source(write(place, ("file", "label", "patient", "slide"), rows)).groups.tolist() == ["P1", "P1"]
    rows[1] = (*ROWS[1][:2], "P2", "S1")
    assert (
        "slide S1 has 2 patients"
        in open_source(write(place, ("file", "label", "patient", "slide"), rows)).facts.notes[0]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("first", ["", "sep=;\n", '"sep=;"\r\n\r\n', "# tiles of Müller\n", ";;;\n"])
def test_first_lines_blank_rows_and_encodings(place, encoding, first):
    (place / "Öl.png").write_bytes((place / "images" / "tile_001.png").read_bytes())
    text = first + ";file;label;patient;\n0;images/tile_000.png;tumour;P1;\n\n;;;;\n1;Öl.png;stroma;P2\n"
    (place / "list.csv").write_bytes(text.encode(encoding))
    opened(place / "list.csv")


def test_values_that_say_nothing_and_numbers_of_pandas(place):
    rows = [("images/tile_000.png", "1.0"), ("images/tile_001.png", "NaN")]
    source = open_source(write(place, ("file", "label"), rows))
    assert source.classes == ("1",) and source.labels.tolist() == [0, -1]
    assert source.facts.notes == (f"{place}/list.csv: 1 tiles have no label (NaN)",)


def test_a_split_that_the_table_knows_is_said(place):
    rows = [(*row[:2], part) for row, part in zip(ROWS, ("training", "test"))]
    (note,) = open_source(write(place, ("file", "label", "split"), rows)).facts.notes
    assert "column split (test, training) is not used" in note


def test_files_are_beside_the_table_or_here(place, monkeypatch):
    lists = place / "lists"
    lists.mkdir()
    monkeypatch.chdir(place)
    source = opened(write(lists, ("file", "label", "patient"), ROWS))
    assert f"not beside it but in the current folder, {place}" in source.facts.notes[0]
    rows = [("gone/a.png", "x"), ("gone/b.png", "y")]
    message = rf"none of its 2 files exists, the first: gone/a\.png \(looked for in {lists} and {place}\)"
    with pytest.raises(UserError, match=message):
        open_source(write(lists, ("file", "label"), rows))
    with pytest.raises(UserError, match=r"There is tile_000\.png: write names as the files have them"):
        open_source(write(place, ("file", "label"), [("images/tile_000", "x")]))
    (lists / "tiles.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"There is tiles\.zip beside it: unpack it"):
        open_source(write(lists, ("file", "label"), rows))


WRONG = {
    "a table of slides": ("case_id,slide_id,label\nP1,S1,a\n", "none of the columns case_id, slide_id, label"),
    "slide files": ("PATIENT,FILENAME\nP1,s1.svs\n", "column FILENAME holds no tiles but whole slides"),
    "features": ("PATIENT,FILENAME\nP1,s1.h5\n", "FILENAME holds no tiles but arrays"),
    "no suffix": ("id,label\nf38a6374,0\n", "none of the columns id, label is titled file"),
    "two columns of files": ("a,b\nx.png,y.png\n", "which of the columns a, b"),
    "two labels": ("file,label,label\nx.png,a,b\n", "2 columns are titled label"),
    "a short row": ("sep=,\nfile,label\n\nx.png\n", r"line 4 has 1 fields \(x.png\), the header has 2"),
    "no file": ("file,label\nx.png,a\n,b\n", "line 3 names no file"),
    "a folder": ("path,label\nimages,a\n", "images is a folder: name its tiles, one row each"),
    "an address": ("file\nhttps://x/y.png\n", "line 2 names https://x/y.png: download"),
    "two classes": ("file,label\nimages/tile_000.png,a\nimages/tile_000.png,b\n", "lines 2 and 3 give .* a and b"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_name_the_line_or_column(place, text, message):
    (place / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(place / "list.csv")


def test_a_tile_listed_twice_counts_once(place):
    source = open_source(write(place, ("file", "label", "patient"), [*ROWS, ROWS[0]]))
    assert len(source) == 2 and source.facts.found == "2 tiles (2 .png); left out: 1 (1 named twice)"


def test_coordinates_and_answers_are_neither_labels_nor_patients(place):
    rows = [(*row[:1], "7", "9", "1") for row in ROWS]
    source = open_source(write(place, ("file", "x", "y", "case"), rows))
    assert source.classes == () and source.groups is None


def test_names_of_another_machine_are_hinted_at(place):
    with pytest.raises(UserError, match=r"There is list\.png beside it: write names relative"):
        (place / "list.png").write_bytes(b"x")
        open_source(write(place, ("file", "label"), [("C:\\data\\list.png", "x")]))


def test_a_tab_named_by_excel_and_titles_in_german(place):
    rows = [f"{file}\t{kind}\t{patient}" for file, kind, patient in ROWS]
    (place / "list.csv").write_text("sep=\t\nDatei\tKlasse\tPatienten-ID\n" + "\n".join(rows))
    opened(place / "list.csv")


def test_what_is_missing_and_what_is_no_tile_is_counted(place):
    rows = [*ROWS, ("gone.png", "stroma", "P3"), ("s.svs", "stroma", "P3")]
    source = open_source(write(place, ("file", "label", "patient"), rows))
    assert source.facts.found == (
        "3 tiles (3 .png), 1 of them do not exist; left out: 1 (1 whole slides: cut them into tiles), with 1 .svs"
    )


def test_numbers_of_slides_are_no_names(place):
    rows = [(*ROWS[0], "1"), (*ROWS[1], "1")]
    assert not open_source(write(place, ("file", "label", "patient", "slide"), rows)).facts.notes
    rows = [(ROWS[0][0], "Tumor"), (ROWS[1][0], "tumor")]
    assert "are Tumor, tumor one class?" in open_source(write(place, ("file", "label"), rows)).facts.notes[0]
