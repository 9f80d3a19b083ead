import pytest

from histojax.common.errors import UserError
from histojax.data.slide_list import find_slides


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def dicom(path, series):
    path.parent.mkdir(parents=True, exist_ok=True)
    uid = series.encode()
    path.write_bytes(bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid)


def names(found):
    return [entry.name for entry in found.entries]


def test_a_folder_with_what_belongs_to_slides(tmp_path):
    touch(tmp_path, "b/2.svs", "1.ndpi", "m.mrxs", "m/Slidedat.ini", "m/Data0001.dat", "notes.txt", "scan.png")
    touch(tmp_path, "b/masks/2.tif", ".hidden/3.svs", "b/.4.svs")
    dicom(tmp_path / "d" / "a.dcm", "1.2")
    dicom(tmp_path / "d" / "b.dcm", "1.2")
    dicom(tmp_path / "two" / "c.dcm", "1.3")
    dicom(tmp_path / "two" / "e.dcm", "1.4")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = find_slides([tmp_path])
    assert names(found) == ["1", "2", "d", "m", "c", "e"]
    assert found.summary() == (
        "6 slides (2 .dcm, 1 .ndpi, 1 .svs, 1 folder of .dcm, 1 .mrxs); left out: 6 (2 hidden or of the system, "
        "1 not slides, 1 masks or overlays, 1 links to folders seen already, "
        "1 plain images beside slides: name them one by one, or by a pattern)"
    )


def test_a_link_to_a_folder_around_this_one_is_not_followed(tmp_path):
    touch(tmp_path, "in/1.svs", "beside/2.svs")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    found = find_slides([tmp_path / "in"])
    assert names(found) == ["1"] and found.left_out[0][1] == "links to folders seen already"


def test_stores_among_the_slides_are_none(tmp_path):
    touch(tmp_path, "1.svs", "tiles/store.json", "tiles/qc/1.jpg")
    found = find_slides([tmp_path])
    assert names(found) == ["1"] and found.left_out == ((str(tmp_path / "tiles"), "tile stores"),)


def test_plain_images_are_slides_where_nothing_else_is(tmp_path):
    touch(tmp_path, "a.tif", "b.png")
    assert (
        names(find_slides([tmp_path])) == ["a"]
        and "1 plain images are taken as slides" in find_slides([tmp_path]).notes[0]
    )
    (tmp_path / "a.tif").unlink()
    assert names(find_slides([tmp_path])) == ["b"]
    touch(tmp_path, "c.svs")
    assert names(find_slides([tmp_path])) == ["c"]
    assert names(find_slides([tmp_path / "b.png", tmp_path / "c.svs"])) == ["b", "c"]


def test_patterns_that_the_shell_left(tmp_path, monkeypatch):
    touch(tmp_path, "x/1.svs", "x/2.tif", "x/m.mrxs", "x/m/Slidedat.ini", "x/readme.md", "y[1].svs")
    assert names(find_slides([str(tmp_path / "x" / "*")])) == ["1", "2", "m"]
    assert names(find_slides([str(tmp_path / "**" / "*.svs")])) == ["1", "y[1]"]
    assert names(find_slides([str(tmp_path / "y[1].svs")])) == ["y[1]"]  # a file of that very name
    monkeypatch.chdir(tmp_path)
    assert names(find_slides(["x/?.svs"])) == ["1"]
    with pytest.raises(UserError, match="nothing matches"):
        find_slides(["x/*.ndpi"])


TABLES = {
    "trident": "wsi,mpp\na.svs,0.25\nsub/b.svs,0.5\n",
    "clam": "slide_id,status,process\na.svs,tbp,1\nsub/b,tbp,0\n",
    "stamp": "PATIENT,FILENAME\nP1,a.svs\nP2,sub/b.h5\n",
    "semicolons": "Slide;Patient ID;Microns per pixel;Diagnosis\na;P1;0,25;x\nsub\\b.svs;P2;0,5;y\n",
    "bars": "slide_path|case_id|spacing|label\n./a.svs|P1|0.25|x\nsub/b.svs|P2||nan\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_many_tools(tmp_path, kind):
    touch(tmp_path, "a.svs", "sub/b.svs")
    (tmp_path / "t.csv").write_text(TABLES[kind])
    found = find_slides([tmp_path / "t.csv"])
    assert names(found) == ["a", "b"] and all(entry.path.exists() for entry in found.entries)
    told = [(entry.patient, entry.mpp, entry.label) for entry in found.entries]
    assert (
        told
        == {
            "trident": [("", 0.25, ""), ("", 0.5, "")],
            "clam": [("", None, "")] * 2,
            "stamp": [("P1", None, ""), ("P2", None, "")],
            "semicolons": [("P1", 0.25, "x"), ("P2", 0.5, "y")],
            "bars": [("P1", 0.25, "x"), ("P2", None, "")],
        }[kind]
    )


def test_patients_that_pandas_made_floats_are_whole_numbers(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.svs").touch()
    (tmp_path / "t.csv").write_text(
        "slide,patient,label,mpp\na.svs,17.0,1.0,0.25 um\nb.svs,,0.0,\na.svs,17,1,\nc.svs,18.0,,\n"
    )
    found = find_slides([tmp_path / "t.csv"])
    assert [(e.name, e.patient, e.label) for e in found.entries] == [("a", "17", "1"), ("b", "", "0"), ("c", "18", "")]
    assert found.entries[0].mpp == 0.25


def test_slides_of_a_table_may_lie_anywhere_in_their_own_folder(tmp_path):
    touch(tmp_path / "slides", "deep/1.svs", "2/2.svs", "3.svs")
    table = tmp_path / "tables" / "t.tsv"
    table.parent.mkdir()
    table.write_text("patient\tslide\nA\t1\nB\t2.svs\n\tTCGA-CR-7395-01A\n")
    with pytest.raises(UserError, match=r"none of its 3 slides exists, the first: 1 .*--slides-dir"):
        find_slides([table])
    found = find_slides([table], slides_dir=tmp_path / "slides")
    assert names(found) == ["1", "2"] and found.left_out == (("TCGA-CR-7395-01A", "do not exist"),)
    assert "1 of its 3 slides do not exist: TCGA-CR-7395-01A" in found.notes[0]
    touch(tmp_path / "slides", "other/1.ndpi")
    with pytest.raises(UserError, match=r"1 may be .*1.svs or .*1.ndpi"):
        find_slides([table], slides_dir=tmp_path / "slides")


def test_a_manifest_of_gdc(tmp_path):
    touch(tmp_path, "u-1/TCGA-AA-1234-01Z-00-DX1.X.svs", "u-1/logs/x.parcel", "u-2/TCGA-BB-1234-01Z-00-DX1.Y.svs")
    (tmp_path / "gdc_manifest.txt").write_text(
        "id\tfilename\tmd5\nu-1\tTCGA-AA-1234-01Z-00-DX1.X.svs\t0\nu-2\tTCGA-BB-1234-01Z-00-DX1.Y.svs\t0\n"
    )
    found = find_slides([tmp_path / "gdc_manifest.txt"])
    assert names(found) == ["TCGA-AA-1234-01Z-00-DX1.X", "TCGA-BB-1234-01Z-00-DX1.Y"]
    assert [entry.patient for entry in found.entries] == ["TCGA-AA-1234", "TCGA-BB-1234"]


def test_the_column_is_the_one_whose_slides_exist(tmp_path):
    touch(tmp_path, "a.svs")
    (tmp_path / "t.csv").write_text("slide_id,path,cohort\nS-1,a.svs,x\n")
    found = find_slides([tmp_path / "t.csv"])
    assert names(found) == ["a"] and "columns not used: slide_id, cohort (slides are those of path)" in found.notes[0]
    (tmp_path / "t.csv").write_text("name,cohort\na.svs,x\n")
    assert names(find_slides([tmp_path / "t.csv"])) == ["a"]
    (tmp_path / "t.csv").write_text("who,what\nb,x\n")
    with pytest.raises(UserError, match="none of the columns who, what is titled slide"):
        find_slides([tmp_path / "t.csv"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("slide,mpp\na.svs,fine\n", r"line 2: mpp fine is no number"),
        ("slide,mpp\na.svs,0.00000025\n", r"line 2: mpp 0.00000025 .*metres"),
        ("slide,mpp\na.svs,0.25\na.svs,0.5\n", r"named twice, with the mpps 0.25 and 0.5"),
        ("slide\n", "no slides; expected a header row"),
        ("slide,mpp\na.svs,0.25,1\n", "line 2 has 3 fields"),
    ],
)
def test_mistakes_in_tables_name_the_line(tmp_path, text, words):
    touch(tmp_path, "a.svs")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        find_slides([tmp_path / "t.csv"])


def test_each_slide_once_and_no_name_twice(tmp_path):
    touch(tmp_path, "a/1.svs", "b/2.svs")
    (tmp_path / "t.csv").write_text("slide,patient\na/1.svs,P1\na/1.svs,P1\n")
    found = find_slides([tmp_path, tmp_path / "t.csv", tmp_path / "b" / "2.svs"])
    assert [(e.name, e.patient) for e in found.entries] == [("1", "P1"), ("2", "")]
    assert [reason for _, reason in found.left_out].count("named twice") == 3
    touch(tmp_path, "b/1.ndpi")
    with pytest.raises(UserError, match=r"a/1.svs and .*b/1.ndpi: two slides of one name \(1\)"):
        find_slides([tmp_path])


def test_patients_of_barcodes_and_nothing_at_all(tmp_path):
    touch(tmp_path, "tcga-cr-7395-01a-01-ts1.svs")
    assert find_slides([tmp_path]).entries[0].patient == "TCGA-CR-7395"
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    for specs, words in (
        ([tmp_path / "t.xlsx"], "save it as .csv"),
        ([], "no slides given"),
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "e"], "no slides"),
    ):
        (tmp_path / "e").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            find_slides(specs)


def test_a_store_is_no_folder_of_slides(tmp_path):
    (tmp_path / "store" / "qc").mkdir(parents=True)
    (tmp_path / "store" / "qc" / "a.png").touch()
    (tmp_path / "store" / "index.arrow").touch()
    with pytest.raises(UserError, match="a tile store, not slides"):
        find_slides([tmp_path / "store"])
    (tmp_path / "b.png").touch()
    found = find_slides([tmp_path])
    assert [e.name for e in found.entries] == ["b"] and found.left_out == ((str(tmp_path / "store"), "tile stores"),)
