"""Tables and feature files meet: who is in, with which tiles, and who is left out for what reason."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from tiny_cohort import WIDTH, write_bag, write_cohort

from histojax.common.errors import UserError
from histojax.evaluation.cohort import read_cohort, read_means
from histojax.evaluation.cohort_tables import Question

STATUS = Question("status", classes=("nonMSIH", "MSIH"))


@pytest.fixture
def root(tmp_path):
    return write_cohort(tmp_path, 6)


def read(root, question=STATUS, slides="slides.csv", **more):
    return read_cohort([root / "features"], root / "clini.csv", slides and root / slides, question, **more)


def test_a_patient_has_the_tiles_of_all_slides_of_the_first_or_slides_count(root):
    found = read(root)
    assert found.units.tolist() == [f"P{i:02d}" for i in range(6)] == found.patients.tolist()
    assert found.targets.tolist() == [0, 1, 0, 1, 0, 1] and found.centres.tolist() == ["s0", "s1", "s2"] * 2
    one, two = (h5py.File(root / "features" / name)["features"][()] for name in ("P00a.h5", "P00b.h5"))
    assert np.array_equal(found.bags[0].load(), np.concatenate([one, two])) and found.bags[0].tiles == len(one) + len(
        two
    )
    first = read(root, choice="first")
    assert (
        np.array_equal(first.bags[0].load(), one) and ("P00b", "not the first slide of its patient") in first.left_out
    )
    each = read(root, choice="each")
    assert each.units.tolist()[:3] == ["P00a", "P00b", "P01a"] and each.patients.tolist()[:3] == ["P00", "P00", "P01"]
    assert each.each and each.sha256 == found.sha256 and "6 patients (nonMSIH: 3, MSIH: 3), 7 bags" in each.summary()


def test_labels_without_features_and_the_reverse_are_counted(root):
    with open(root / "clini.csv", "a") as file:
        file.write("Q1,MSIH,1,1,1,s\nQ2,,1,1,1,s\n")
    with open(root / "slides.csv", "a") as file:
        file.write("gone,P01\nx,stranger\n")
    write_bag(root / "features" / "lonely.h5", np.ones((2, WIDTH)))
    write_bag(root / "features" / "P05a.h5", np.ones((0, WIDTH)))
    left = dict(read(root).left_out)
    assert left == {
        "Q2": "no target in the clinical table",
        "gone": "no feature file",
        "x": "a slide of a patient who is not in the clinical table, or has no target",
        "P05a": "an empty bag: its feature file has no tiles",
        "P05": "no features",
        "Q1": "no features",
        "lonely": "a feature file of no patient who counts",
    }


def test_without_a_slide_table_names_lead_to_patients(tmp_path):
    for name in ("TCGA-AA-1111-01Z-00-DX1.x", "P2", "P3.svs"):
        write_bag(tmp_path / "features" / f"{name}.h5", np.ones((2, 3)))
    (tmp_path / "clini.csv").write_text("PATIENT,x\nTCGA-AA-1111,0\nP2,1\nP3,1\n")
    found = read(tmp_path, Question("x"), None)
    assert found.units.tolist() == ["P2", "P3", "TCGA-AA-1111"] and found.centres.tolist() == ["", "", "TCGA site AA"]
    (tmp_path / "clini.csv").write_text("PATIENT,x\nA,0\nB,1\n")
    with pytest.raises(UserError, match="no slide table was given, so names must be equal"):
        read(tmp_path, Question("x"), None)


def test_bad_features_are_named_before_any_work(root):
    found, means = read_means(read(root))
    assert means.shape == (6, WIDTH) and found.bags[1].load() is found.bags[1].load()
    write_bag(root / "features" / "P02a.h5", np.full((3, WIDTH), np.nan))
    cohort = read(root)
    with pytest.raises(UserError, match=r"P02a.*not finite.*--skip-bad"):
        read_means(cohort)
    kept, means = read_means(cohort, skip_bad=True)
    assert len(kept.bags) == len(means) == 5 and kept.left_out[-1][0] == "P02"
    (root / "features" / "P04a.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UserError, match=r"P04a.h5: .*--skip-bad"):
        read(root)
    assert "P04" not in read(root, skip_bad=True).patients


def test_mixed_encoders_and_shared_files_are_refused(root):
    write_bag(root / "features" / "P02a.h5", np.ones((3, WIDTH + 1)))
    with pytest.raises(UserError, match="different widths are not mixed"):
        read(root)
    (root / "slides.csv").write_text("FILENAME,PATIENT\nP00a,P00\nP00a.h5,P01\n")
    with pytest.raises(UserError, match=r"P00a.h5 would be of two patients, P00 .as P00a. and P01"):
        read(root)


def test_one_table_may_be_both(tmp_path):
    write_cohort(tmp_path, 4)
    (tmp_path / "clini.csv").write_text("slide,patient,status\nP00a,X,nonMSIH\nP00b,X,nonMSIH\nP01a,Y,MSIH\n")
    assert read(tmp_path, slides=None).patients.tolist() == ["X", "Y"]
