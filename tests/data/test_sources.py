import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tile_files import file_bytes, make_folder, picture, zip_folder

from histojax.common.errors import UserError
from histojax.data.decode import BadTile
from histojax.data.sources import open_source


def test_folder_with_classes_nested_files_and_clutter(tmp_path):
    root = make_folder(tmp_path / "f", {"tumour/slide1": 2, "adipose": 1})
    (root / "notes.txt").write_text("x")
    (root / ".cache").mkdir()
    (root / ".cache" / "t.png").write_bytes(file_bytes(picture(9)))
    (root / "adipose" / "B.TIF").write_bytes(file_bytes(picture(3), "TIFF"))
    source = open_source(root)
    assert source.classes == ("adipose", "tumour") and source.labels.tolist() == [0, 0, 1, 1]
    assert source.groups is None
    assert source.name(0) == f"{root}/adipose/B.TIF"
    assert [source.read(i)[0, 0, 0] for i in range(4)] == [3, 2, 0, 1]


def test_flat_folder_is_unlabelled(tmp_path):
    source = open_source(make_folder(tmp_path / "f", {"": 3}))
    assert source.classes == () and source.labels.tolist() == [-1] * 3


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "counts",
    [{"tiles": 3}, {"tiles": 3, "": 1}, {"a/tiles": 3}, {"a/tiles": 2, "a": 1}, {"tumour/slide1": 3}],
    ids=lambda counts: "+".join(counts),
)
def test_a_single_folder_is_no_label(tmp_path, counts, kind):
    source = open_source(packed(make_folder(tmp_path / "f", counts), kind))
    assert source.classes == () and set(source.labels.tolist()) == {-1}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "counts",
    [{"A": 2, "B": 2, "": 1}, {"data/A": 2, "data/B": 2, "data": 1}, {"data/A": 2, "data/B/deeper": 2, "": 1}],
    ids=["beside", "one down", "above"],
)
def test_a_stray_image_has_no_label_and_leaves_the_classes(tmp_path, counts, kind):
    source = open_source(packed(make_folder(tmp_path / "f", counts), kind))
    assert source.classes == ("A", "B") and sorted(source.labels.tolist()) == [-1, 0, 0, 1, 1]
    assert source.read(source.labels.tolist().index(-1))[0, 0, 0] == 4  # the last picture that was made


def packed(folder, kind):
    return zip_folder(folder, folder.with_suffix(".zip")) if kind == "zip" else folder


@pytest.mark.parametrize("locked", ["", "B", "B/slide7"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, locked):
    folder = make_folder(tmp_path / "f", {"A": 1, "B/slide7": 1})
    lock(monkeypatch, folder / locked)
    with pytest.raises(UserError, match=f"{folder / locked}: this folder cannot be read .*permissions"):
        open_source(folder)


def test_hidden_folders_and_lost_and_found_may_be_locked(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "f", {"A": 1, "A/.thumbs": 1, "B": 1, "lost+found": 1})
    lock(monkeypatch, folder / "A" / ".thumbs", folder / "lost+found")
    assert len(open_source(folder)) == 2


def lock(monkeypatch, *folders):
    """As chmod 0 for others than root."""
    scandir = os.scandir

    def guarded(path):
        if str(path) in map(str, folders):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "l.csv").write_text("file\na.png\n")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"l\.csv: cannot be read \(Permission denied\)"):
        open_source(tmp_path / "l.csv")


def refuse(path, *_, **__):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_class_folder_may_be_a_link(tmp_path):
    make_folder(tmp_path / "elsewhere", {"": 2})
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "tumour").symlink_to(tmp_path / "elsewhere")
    make_folder(tmp_path / "f", {"stroma": 1})
    assert open_source(tmp_path / "f").labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("top", ["", "NCT-100K/"])
def test_zip_is_read_by_threads_and_after_pickling(tmp_path, top):
    folder = make_folder(tmp_path / "f", {"a": 12, "b": 12})
    source = open_source(zip_folder(folder, tmp_path / "t.zip", top))
    assert source.classes == ("a", "b") and source.labels.tolist() == [0] * 12 + [1] * 12
    copy = pickle.loads(pickle.dumps(source))
    assert copy.files._archive is None  # the worker opens it itself
    with ThreadPoolExecutor(4) as pool:
        got = [tile[0, 0, 0] for tile in pool.map(copy.read, list(range(24)) * 4)]
    assert got == list(range(24)) * 4
    assert copy.fingerprint() == source.fingerprint()


def test_damaged_zip_member_is_a_bad_tile(tmp_path):
    path = zip_folder(make_folder(tmp_path / "f", {"": 2}), tmp_path / "t.zip")
    data = bytearray(path.read_bytes())
    data[80] ^= 255  # inside the first member
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(BadTile, match=r"tile_000\.png"):
        source.read(0)
    assert source.read(1)[0, 0, 0] == 1


def test_csv_with_label_and_patient(tmp_path):
    make_folder(tmp_path / "images", {"": 3})
    rows = "images/tile_002.png,P1,tumour\nimages/tile_000.png,P2,\n\nimages/gone.png,P2,stroma\n"
    (tmp_path / "list.csv").write_text("\ufeffFile, Patient, Label\n" + rows, encoding="utf-8")
    source = open_source(str(tmp_path / "list.csv"))
    assert source.classes == ("stroma", "tumour") and source.labels.tolist() == [1, -1, 0]
    assert source.groups.tolist() == ["P1", "P2", "P2"]
    assert source.read(0)[0, 0, 0] == 2
    with pytest.raises(BadTile, match=r"gone\.png: the file does not exist"):
        source.read(2)
    assert len(source.fingerprint()) == 64  # a missing file does not break it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,x\nb.png,y\n", "header row"),
        ("file,label\n", "no tiles"),
        ("", "no tiles"),
        ("file,label\na.png\n", "line 2 has 1 fields"),
    ],
)
def test_csv_mistakes_are_user_errors(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "l.csv")


def test_comma_list_and_sequence_join(tmp_path):
    make_folder(tmp_path / "a", {"w": 1, "x": 1})
    make_folder(tmp_path / "b", {"": 1})
    make_folder(tmp_path / "c,d", {"w": 1, "y": 1})
    text = open_source(f"{tmp_path}/a, {tmp_path}/b")
    listed = open_source([tmp_path / "a", f"{tmp_path}/b", tmp_path / "c,d"])
    assert text.labels.tolist() == [0, 1, -1] and listed.labels.tolist() == [0, 1, -1, 0, 2]


def test_synthetic_with_options_and_count():
    source = open_source("synthetic:18", tile_px=32, seed=3, data_dir="unused")
    assert len(source) == 18 and source.read(0).shape == (32, 32, 3)
    assert len(open_source("synthetic")) > 500


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no data given: accepted are an image folder"),
        ("no/such/place", "no/such/place: does not exist .*accepted are an image folder"),
        ("synthetic:lots", "synthetic:N"),
        ("tfds:only_a_name", "tfds:NAME:SPLIT"),
    ],
)
def test_wrong_specs_are_user_errors(spec, message):
    with pytest.raises(UserError, match=message):
        open_source(spec)


def test_wrong_files_and_empty_containers_are_user_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "slide.svs").write_bytes(b"x")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    zip_folder(tmp_path / "empty", tmp_path / "empty.zip")
    for name in ("t.tar.gz", "x.png", "t.xlsx"):
        (tmp_path / name).write_bytes(b"x")
    for name, message in [
        ("t.tar.gz", "archives: unpack them"),
        ("x.png", "one image: name its folder"),
        ("t.xlsx", r"save it as \.csv"),
        ("*.png", "patterns are not expanded"),
        ("empty", "no image"),
        ("slide.svs", r"'\.svs' is not"),
        ("broken.zip", "not a readable zip"),
    ]:
        with pytest.raises(UserError, match=message):
            open_source(tmp_path / name)
    with pytest.raises(UserError, match=r"empty\.zip: no image in this zip"):
        open_source(tmp_path / "empty.zip")


def test_unknown_option_is_a_programming_error():
    with pytest.raises(TypeError, match="tile_size"):
        open_source("synthetic", tile_size=3)


def test_importing_the_room_imports_no_jax_and_no_grain():
    import subprocess
    import sys

    code = "import histojax.data.sources, sys; print({'jax', 'grain', 'tensorflow_datasets'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_labels_are_int32(tmp_path):
    assert open_source(make_folder(tmp_path / "f", {"a": 1, "b": 1})).labels.dtype == np.int32
