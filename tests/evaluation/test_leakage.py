"""Leaks are found by names however they are written, by pixels and by features; what cannot be checked is said."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.data.hashes import hash_tile
from histojax.evaluation.leakage import Cases, check_leaks, refuse_leaks


def kinds(leaks):
    return {(one.kind, one.part): one.count for one in leaks.shared}


def test_patients_and_slides_are_found_however_they_are_written():
    train = Cases("training", ["P1", "p2 "], ["a/S1.svs", "TCGA-AA-1234-01Z-00-DX1.uuid.svs"])
    test = Cases("test", ["p2", "P3"], ["s1.ndpi", "tcga-aa-1234-01z-00-dx1"])
    assert kinds(check_leaks(train, [test])) == {("patient", "training"): 1, ("slide", "training"): 2}


def test_patients_are_read_from_barcodes_of_slides():
    ssl = Cases("tiles of runs/x", slides=["TCGA-AA-1234-01Z-00-DX1.svs"])
    test = Cases("test", slides=["TCGA-AA-1234-01Z-00-DX2.svs"])
    assert kinds(check_leaks(None, [test], [ssl])) == {("patient", "tiles of runs/x"): 1}


def test_folds_of_one_cohort_are_compared_with_the_encoder_alone():
    cohort = Cases("test", ["a", "b"])
    assert not check_leaks(None, [cohort]).shared
    external = Cases("CPTAC", ["b", "c"])
    assert kinds(check_leaks(cohort, [external])) == {("patient", "test"): 1}


def test_copies_of_tiles_by_pixels():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    lighter = np.minimum(tiles[1].astype(int) + 6, 255).astype(np.uint8)
    blank = np.full((128, 128, 3), 240, np.uint8)
    train = np.stack([hash_tile(t) for t in (tiles[0], tiles[1], tiles[2], blank)])
    test = np.stack([hash_tile(t) for t in (tiles[3], tiles[0], lighter, np.rot90(tiles[2]).copy(), blank)])
    found = check_leaks(
        Cases("training", ["a"], hashes=train), [Cases("test", ["b"], hashes=test, tiles=list("vwxyz"))]
    )
    assert {one.kind: one.names for one in found.shared} == {
        "identical tile": ("w",),
        "near-identical tile": ("x",),
        "turned or mirrored tile": ("y",),
    }
    assert not found.unchecked


def test_copies_of_tiles_by_features_but_not_blank_ones():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    train = Cases("training", ["a"], features=np.concatenate([x[:4], x[[8, 8, 8]]]))
    test = Cases("test", ["b"], features=np.concatenate([x[4:7], x[[8, 8]], x[2:3]]))
    (one,) = check_leaks(train, [test]).shared
    assert (one.kind, one.count, one.names) == ("feature-identical tile", 1, ("row 5",))


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-9, 0), (1e30, 0), (1, 1e4)])
def test_copies_by_features_of_any_scale(scale, offset):
    x = (np.random.default_rng(1).normal(size=(30, 3)) * scale + offset).astype(np.float32)
    train, test = Cases("training", ["a"], features=x[:16]), Cases("test", ["b"], features=x[15:])
    assert [one.names for one in check_leaks(train, [test]).shared] == [("row 0",)]


def test_what_cannot_be_checked_is_said():
    found = check_leaks(Cases("training"), [Cases("test", ["1"])])
    assert not found.shared
    assert any("patients of training are not known" in text for text in found.unchecked)
    assert any("no pixels at hand" in text for text in found.unchecked)
    test = Cases("test", ["TCGA-AA-0001"])
    assert any(
        "ctranspath was trained on slides of TCGA" in s for s in check_leaks(None, [test], (), "ctranspath").unchecked
    )
    assert not check_leaks(None, [test], (), "uni").unchecked


def test_leaks_are_refused_unless_allowed():
    leaks = check_leaks(Cases("training", ["1", "2"]), [Cases("test", ["2"])])
    with pytest.raises(UserError, match=r"test shares 1 patient with training \(2; plain numbers.*--allow-leaks"):
        refuse_leaks(leaks, False)
    assert refuse_leaks(leaks, True)[0].startswith("test shares 1 patient with training")
    facts = leaks.facts(True)
    assert facts["allowed"] and facts["patients"] == ["2"] and len(facts["sentences"]) == 2
    assert facts["shared"] == [{"kind": "patient", "part": "training", "other": "test", "count": 1}]
    assert check_leaks(None, []).facts(True) == {"sentences": []}
