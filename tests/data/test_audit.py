import csv
import json

import numpy as np
import pytest
from tile_files import file_bytes

from histojax.data.audit import TileSet, audit, kept, plain_unit
from histojax.data.audit_report import facts, summary, write_clean, write_tables
from histojax.data.hashes import hash_tile
from histojax.data.sources import open_source
from histojax.data.store import Tile, finish_store, start_store, write_part
from histojax.data.synthetic import SyntheticTissue


@pytest.fixture(scope="module")
def tiles():
    source = SyntheticTissue(9, 128, classes=["tumour", "stroma"])
    return [source.read(i) for i in range(9)]


def make_store(out, slides):
    """A store of {slide: (patient, label, tiles)}."""
    start_store(out, {})
    for name, (patient, label, images) in slides.items():
        made = [Tile(file_bytes(t), slide=name, x=i, y=0, label=label, group=patient) for i, t in enumerate(images)]
        write_part(out, name, made)
    finish_store(out, list(slides))
    return out


def tile_set(path, judges=False, bad=()):
    source = open_source(path)
    rows = np.stack([hash_tile(source.read(i)) for i in range(len(source))])
    for index in bad:
        rows[index] = 0
        rows[index]["bad"] = True
    return TileSet(str(path), source, rows, dict.fromkeys(bad, "damaged"), judges)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sets(tmp_path, tiles):
    """A store to train on, and one to judge by that shares a slide, its patient, and copies of two tiles with it."""
    train = {
        "TCGA-AA-0001-01Z-00-DX1.1111-2222": ("TCGA-AA-0001", "x", [tiles[0], tiles[1], np.full_like(tiles[0], 250)]),
        "S2": ("P2", "x", [tiles[2], tiles[0], tiles[3], tiles[4]]),
        "S3": ("P3", "y", [tiles[2][::-1], tiles[5], tiles[6]]),
    }
    judge = {
        "tcga-aa-0001-01z-00-dx1": ("tcga-aa-0001", "x", [tiles[7]]),
        "S9": ("P9", "x", [np.roll(tiles[5], 1, 0), tiles[3]]),
    }
    make_store(tmp_path / "train", train)
    make_store(tmp_path / "judge", judge)
    return [tile_set(tmp_path / "train", bad=[9]), tile_set(tmp_path / "judge", judges=True)]


def test_everything_that_is_wrong_is_found(tmp_path, sets):
    found = audit(sets)
    known = facts(found)
    assert found.blank.sum() == 1 and found.bad.sum() == 1 and not found.clean()
    assert known["copies"] == {
        "groups": 4,
        "identical": 2,
        "near_identical": 1,
        "turned_or_mirrored": 1,
        "with_two_labels": 2,
        "with_two_patients": 4,
        "not_compared_with_all": 0,
    }
    assert known["shared"] == {"patient": 1, "slide": 1, "identical tile": 1, "near-identical tile": 1}
    said = summary(found, known)
    assert "10 tiles, 3 patients, 3 slides\n  unreadable 1, blank 1, with copies 6" in said
    assert said.endswith("1 patients, 1 slides, 1 identical tiles, 1 near-identical tiles, 0 turned or mirrored tiles")
    write_tables(tmp_path / "out", found, known)
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == known
    overlap = rows_of(tmp_path / "out" / "overlap.csv")
    assert [row["kind"] for row in overlap] == ["patient", "slide", "identical tile", "near-identical tile"]
    assert (overlap[0]["what"], overlap[0]["tiles"], overlap[0]["other_tiles"]) == ("TCGA-AA-0001", "3", "1")
    assert overlap[3]["what"].endswith("S3_1_0") and overlap[3]["other_what"].endswith("S9_0_0")
    copies = rows_of(tmp_path / "out" / "duplicates.csv")
    assert [(row["group"], row["kind"]) for row in copies[:4]] == [
        ("0", "first"), ("0", "identical"), ("1", "first"), ("1", "turned or mirrored")
    ]  # fmt: skip
    left_out = rows_of(tmp_path / "out" / "left_out.csv")
    assert [(row["tile"], row["reason"]) for row in left_out] == [("2", "blank"), ("9", "damaged")]
    assert (tmp_path / "out" / "pairs.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_kept_and_its_list(tmp_path, sets):
    found = audit(sets)
    keep, why = kept(found)
    assert np.flatnonzero(keep).tolist() == [3, 4, 6]
    assert why == {
        "unreadable": 1,
        "blank": 1,
        "patient of the set to judge by": 2,
        "copy of a tile of the set to judge by": 2,
        "copy of a tile that is kept": 1,
    }
    assert write_clean(tmp_path / "clean.csv", found) == (3, why)
    clean = open_source(tmp_path / "clean.csv")
    assert [clean.name(i).rpartition("/")[2] for i in range(3)] == ["S2_0_0", "S2_1_0", "S2_3_0"]
    assert audit([tile_set(tmp_path / "clean.csv"), sets[1]]).clean()


def test_folders_become_lists_of_files_and_sets_are_compared_in_pairs(tmp_path, tiles):
    for name, images in {"one/a/1": tiles[0], "one/b/2": tiles[0], "one/b/3": tiles[1], "two/x": tiles[1]}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(file_bytes(images))
    one = tile_set(tmp_path / "one")
    write_clean(tmp_path / "clean.csv", audit([one]))
    assert (tmp_path / "clean.csv").read_text() == f"file,label\n{tmp_path}/one/a/1.png,a\n{tmp_path}/one/b/3.png,b\n"
    assert open_source(tmp_path / "clean.csv").labels.tolist() == [0, 1]
    found = audit([one, tile_set(tmp_path / "two")])
    assert [shared.kind for shared in found.shared] == ["identical tile"]
    assert "patients not known of both, slides not known of both, 1 identical tiles" in summary(found, facts(found))
    assert write_clean(tmp_path / "clean.csv", found)[0] == 2 and len(open_source(tmp_path / "clean.csv")) == 2


def test_nothing_found(tmp_path, tiles):
    found = audit([tile_set(make_store(tmp_path / "s", {"a": ("P", "x", tiles[:3])}))])
    write_tables(tmp_path / "out", found, facts(found))
    assert found.clean() and [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]


@pytest.mark.parametrize(
    "name, other, kind",
    [
        ("TCGA-A1-A0SB-01Z-00-DX1.0A1B-22", "a/tcga-a1-a0sb-01z-00-dx1.svs", "slide"),
        ("S1.ndpi", "s1", "slide"),
        ("folder/S1.tif", "S1", "slide"),
        ("TCGA-A1-A0SB-01Z", "tcga-a1-a0sb", "patient"),
        (" P1", "p1", "patient"),
    ],
)
def test_names_of_one_patient_or_slide(name, other, kind):
    assert plain_unit(name, kind) == plain_unit(other, kind) != plain_unit("x", kind)
