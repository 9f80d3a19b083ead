"""Feature files of several programs become bags, found by whatever a table calls them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.bag_files import cut, find_bags, without_suffix
from histojax.features.feature_file import Rows, write_features
from histojax.features.stored import NOT_KNOWN, Origin


def put(path, value, tiles=3, key="features", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = np.full((tiles, 4), value, np.float16 if key == "feats" else np.float32)
        for name, data in more.items():
            file[name] = data


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a" / "TCGA-AA-1234-01Z-00-DX1.uuid-1.h5", 1, coords=np.zeros((3, 2), int))
    put(tmp_path / "a" / "TCGA-AA-1234-01Z-00-DX2.uuid-2.h5", 2)
    put(tmp_path / "b" / "slide.svs.h5", 3, key="feats", feats_aug=np.arange(24).reshape(2, 3, 4).astype(np.float32))
    put(tmp_path / "b" / "nothing.h5", 3, tiles=0)
    put(tmp_path / "patches" / "slide_patches.h5", 9)
    (tmp_path / "b" / "broken.h5").write_bytes(b"")
    return tmp_path


def test_a_table_may_call_a_file_many_things(folder):
    found = find_bags([folder])
    assert [name for name, _ in found.empty] == ["nothing"] and [name for name, _ in found.bad] == ["broken"]
    for name, value in [
        ("TCGA-AA-1234-01Z-00-DX1", 1),
        ("TCGA-AA-1234-01Z-00-DX1.uuid-1", 1),
        ("TCGA-AA-1234-01Z-00-DX2.uuid-2.svs", 2),
        ("a/TCGA-AA-1234-01Z-00-DX2.uuid-2.h5", 2),
        ("slide", 3),
        ("b\\slide.svs.h5", 3),
        ("somewhere/else/slide.ndpi", 3),
    ]:
        x = found.find(name).load()
        assert x.dtype == np.float32 and x.shape == (3, 4) and (x == value).all(), name
    assert found.find("TCGA-AA-1234-01Z-00-DX3") is None and found.find("TCGA-AA-1234") is None
    drawn = found.find("slide").augmented(np.random.default_rng(0))
    assert drawn.shape == (3, 4) and drawn[0, 0] in (0, 12) and found.find("TCGA-AA-1234-01Z-00-DX1").augmented is None


def test_what_may_be_two_files_is_refused(folder):
    put(folder / "c" / "slide.h5", 4)
    with pytest.raises(UserError, match=r"slide may be .*slide.*h5 or .*slide"):
        find_bags([folder]).find("slide")
    assert find_bags([folder / "b"]).find("slide").load()[0, 0] == 3
    (folder / "d").mkdir()
    with pytest.raises(UserError, match="no feature files"):
        find_bags([folder / "d"])
    with pytest.raises(UserError, match="does not exist"):
        find_bags([folder / "gone"])


def test_groups_of_one_file_are_bags(tmp_path):
    groups = np.array(["P2", "P1", "", "P2"])
    rows = Rows(np.arange(8, dtype=np.float32).reshape(4, 2), groups=groups, group_kind="patient")
    write_features(tmp_path / "tiles.h5", "tiles", rows, NOT_KNOWN, Origin("histojax", "x"))
    found = find_bags([tmp_path / "tiles.h5"])
    assert [(bag.name, bag.tiles) for bag in found.bags] == [("P1", 1), ("P2", 2)]
    assert found.find("P2").load().tolist() == [[0, 1], [6, 7]] and "1 tiles that say no patient" in found.empty[0][1]


def test_names():
    assert cut("TCGA-A.uuid") == "TCGA-A" and cut("x_files.h5") == "x"
    assert without_suffix("x.svs.h5") == "x" and without_suffix("a.67892cf1-7531") == "a.67892cf1-7531"
