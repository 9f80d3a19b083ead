"""Labelled features of any file as one set; what does not belong together is refused."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.patch_input import of_one_mind, read_patches
from histojax.evaluation.provenance import encoder_name
from histojax.features.feature_file import Rows, write_features
from histojax.features.stored import Geometry, Origin


def ours(path, labels, names=None, encoder="mine", classes=("A", "B"), groups=None, width=4):
    path.parent.mkdir(exist_ok=True)
    count = len(labels)
    features = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    names = np.array(names or [f"{path.stem}{i}.png" for i in range(count)])
    groups = None if groups is None else np.array(groups)
    rows = Rows(features, names=names, labels=np.array(labels), classes=classes, groups=groups, group_kind="patient")
    write_features(path, path.stem, rows, Geometry(), Origin("histojax 0", encoder))
    return path


def arrays(path, **extra):
    features = np.arange(12, dtype=np.float64).reshape(6, 2)
    np.savez(path, **({"features": features, "labels": np.array(list("xyxyxy"))} | extra))
    return path


def test_files_are_joined_and_unlabelled_tiles_counted(tmp_path):
    ours(tmp_path / "features_uni" / "a.h5", [0, 1, -1], groups=["p", "q", ""])
    ours(tmp_path / "features_uni" / "b.h5", [1, 1], classes=("B", "C"))
    found = read_patches([tmp_path / "features_uni"])
    assert found.classes == ("A", "B", "C") and found.labels.tolist() == [0, 1, 2, 2]
    assert found.left_out == {"without a label": 1} and found.groups.tolist() == ["p", "q", "", ""]
    assert encoder_name(found.headers) == "uni" and found.counts() == {"A": 1, "B": 1, "C": 2}


def test_arrays_are_a_file_too(tmp_path):
    found = read_patches([arrays(tmp_path / "a.npz", groups=np.array(list("ppqqrr")), centres=np.arange(6) // 3)])
    assert (
        found.classes == ("x", "y") and found.features.dtype == np.float32 and found.groups.tolist() == list("ppqqrr")
    )
    assert found.centres.tolist() == ["0", "0", "0", "1", "1", "1"]
    numbers = read_patches([arrays(tmp_path / "n.npz", labels=np.array([10, 9, 10, 9, 9, 10]))])
    assert numbers.classes == ("9", "10") and numbers.labels.tolist() == [1, 0, 1, 0, 0, 1]


def test_a_table_of_slides_labels_their_tiles_and_makes_them_groups(tmp_path):
    for name in ("s1", "s2"):
        ours(tmp_path / f"{name}.h5", [-1, -1], classes=())
    (tmp_path / "t.csv").write_text("slide;diagnosis;scanner\ns1;MSI;GT450\ns2;MSS;P1000\n")
    found = read_patches([tmp_path / "s1.h5", tmp_path / "s2.h5"], tmp_path / "t.csv")
    assert [found.classes[i] for i in found.labels] == ["MSI", "MSI", "MSS", "MSS"]
    assert found.groups.tolist() == ["s1", "s1", "s2", "s2"] and found.group_kind == "slide"
    assert found.centres.tolist() == ["GT450", "GT450", "P1000", "P1000"]
    (tmp_path / "wrong.csv").write_text("slide,label\nother,1\n")
    with pytest.raises(UserError, match="none of its 1 slides is in the features"):
        read_patches([tmp_path / "s1.h5"], tmp_path / "wrong.csv")


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"labels": np.array(["", "nan", "", "", "", ""])}, "no tile has a label"),
        ({"features": np.full((6, 2), np.nan)}, "6 of 6 tiles have features that are not finite"),
        ({"labels": np.arange(5)}, r"labels \(5,\) for 6 features"),
        ({"features": np.arange(6)}, "expected features"),
        ({"names": np.array(["a"] * 6)}, "tile a occurs more than once"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, extra, message):
    with pytest.raises(UserError, match=message):
        read_patches([arrays(tmp_path / "a.npz", **extra)])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(6) * 2.0, ("0", "2", "4", "6", "8", "10")),
        (np.array([-1, 2, 10] * 2), ("-1", "2", "10")),
        (np.array(["²", "10", "9"] * 2), ("9", "10", "²")),
        (np.array(["é".encode(), b"b"] * 3), ("b", "é")),
    ],
)
def test_labels_of_any_type_are_names(tmp_path, labels, classes):
    assert read_patches([arrays(tmp_path / "a.npz", labels=labels)]).classes == classes


def test_files_that_are_no_arrays_are_named(tmp_path):
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04junk")
    with open(tmp_path / "one.npz", "wb") as file:
        np.save(file, np.ones(3))
    for name in ("zip", "one"):
        with pytest.raises(UserError, match="cannot be read as arrays"):
            read_patches([tmp_path / f"{name}.npz"])
    with pytest.raises(UserError, match="6 of 6 tiles have features that are not finite"):
        read_patches([arrays(tmp_path / "large.npz", features=np.full((6, 2), 1e39))])
    with pytest.raises(UserError, match="no text in UTF-8"):
        read_patches([arrays(tmp_path / "bytes.npz", names=np.array([b"\xff"] * 6))])


def test_slides_of_tiles_are_groups_and_slide_files_are_found(tmp_path):
    file = arrays(tmp_path / "S1.npz")
    rows = "".join(f"S1 row {i},{'uv'[i // 3]},x\n" for i in range(6))
    (tmp_path / "tiles.csv").write_text("tile,slide,label\n" + rows)
    found = read_patches([file], tmp_path / "tiles.csv")
    assert (found.group_kind, found.groups.tolist()) == ("slide", list("uuuvvv"))
    (tmp_path / "slides.csv").write_text("slide,label\ns1.svs,z\ns2.svs,y\n")
    assert read_patches([file], tmp_path / "slides.csv").classes == ("z",)


def test_sets_agree_on_their_classes_or_are_refused(tmp_path):
    train = read_patches([arrays(tmp_path / "a.npz", labels=np.array(list("abcabc")))])
    test = read_patches([arrays(tmp_path / "b.npz", labels=np.array(list("ccbbcb")))])
    first, second = of_one_mind(train, test)
    assert second.classes == ("a", "b", "c") and second.labels.tolist() == [2, 2, 1, 1, 2, 1]
    assert any("no tile of a" in note for note in first.notes)
    with pytest.raises(UserError, match="class 'a' does not occur"):
        of_one_mind(test, train)


def test_encoders_are_not_mixed_and_files_that_are_none_are_named(tmp_path):
    first, other = ours(tmp_path / "a.h5", [0, 1]), ours(tmp_path / "b.h5", [0, 1], encoder="other")
    with pytest.raises(UserError, match="different encoders"):
        read_patches([first, other])
    with pytest.raises(UserError, match="different encoders"):
        of_one_mind(read_patches([first]), read_patches([other]))
    for folder in ("features_u", "features_v"):
        ours(tmp_path / folder / "x.h5", [0, 1])
    with pytest.raises(UserError, match="several encoders"):
        read_patches([tmp_path])
    (tmp_path / "t.png").write_bytes(b"")
    for path in (tmp_path / "t.png", tmp_path / "gone"):
        with pytest.raises(UserError, match=str(path)):
            read_patches([path])


def test_rows_are_taken_with_all_that_is_known_of_them(tmp_path):
    found = read_patches([ours(tmp_path / "a.h5", [0, 1, 0], groups=["p", "q", "r"])])
    picked = found.take(np.array([2, 0]))
    assert picked.names.tolist() == ["a2.png", "a0.png"] and picked.groups.tolist() == ["r", "p"] and len(picked) == 2
