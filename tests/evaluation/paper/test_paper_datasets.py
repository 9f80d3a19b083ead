"""Sets are counted by class in folders and zips, told from published ones, and a missing one says where to get it."""

import dataclasses
import zipfile

import pytest

from histojax.common.errors import UserError
from histojax.evaluation.paper.datasets import (
    HERE,
    MISSING,
    NCT_TEST,
    NCT_TRAIN,
    OTHER,
    TCGA_CRC,
    file_md5,
    look_for_patches,
    look_for_slides,
)

SMALL = dataclasses.replace(NCT_TEST, counts={"ADI": 2, "TUM": 1})


def folder(path, counts=SMALL.counts):
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{name}-{i}.tif").write_bytes(b"")
        (path / name / "Thumbs.db").write_bytes(b"")
    return path


def zipped(path, counts=SMALL.counts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, count in counts.items():
            for i in range(count):
                archive.writestr(f"CRC-VAL-HE-7K/{name}/{name}-{i}.tif", b"")
    return path


def test_the_published_counts_add_up():
    assert (NCT_TRAIN.total, NCT_TEST.total) == (100_000, 7_180)


def test_a_folder_and_a_zip_of_it_are_the_set(tmp_path):
    found = look_for_patches(str(folder(tmp_path / "a")), SMALL)
    assert (found.state, found.counts, found.said) == (HERE, SMALL.counts, ())
    zipped(tmp_path / "b.zip")
    found = look_for_patches(str(tmp_path / "b"), SMALL)  # without its ending
    assert (found.state, found.where, found.counts) == (HERE, str(tmp_path / "b.zip"), SMALL.counts)


def test_another_set_is_told_from_it(tmp_path):
    found = look_for_patches(str(folder(tmp_path / "a", {"ADI": 2, "TUM": 5})), SMALL)
    assert found.state == OTHER and "TUM 5 (published 1)" in found.said[0]
    found = look_for_patches(str(folder(tmp_path / "b", {"H": 1, "AC": 2})), SMALL)
    assert found.state == OTHER and "classes AC, H" in found.said[0]
    assert look_for_patches(str(tmp_path / "b"), None).state == HERE
    table = tmp_path / "list.csv"
    table.write_text("file,label\n")
    assert look_for_patches(str(table), SMALL).state == OTHER


def test_the_md5_of_a_zip_is_compared_when_asked(tmp_path):
    path = zipped(tmp_path / "a.zip")
    right = dataclasses.replace(SMALL, md5=file_md5(path))
    assert look_for_patches(str(path), right, verify=True).state == HERE
    found = look_for_patches(str(path), SMALL, verify=True)
    assert found.state == OTHER and SMALL.md5 in found.said[0]


def test_what_is_missing_says_where_to_get_it(tmp_path):
    found = look_for_patches(str(tmp_path / "NCT-CRC-HE-100K"), NCT_TRAIN)
    assert found.state == MISSING and NCT_TRAIN.md5 in found.said[0] and "zenodo.org/records/1214456" in found.said[0]
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"damaged\.zip: cannot be read as a zip"):
        look_for_patches(str(damaged), NCT_TRAIN)


def test_a_cohort_needs_slides_and_both_tables(tmp_path):
    table = tmp_path / "clini.csv"
    table.write_text("PATIENT,isMSIH\n")
    found = look_for_slides("", {"clinical table": str(table), "slide table": ""}, TCGA_CRC)
    assert found.state == MISSING and len(found.said) == 2 and "632 patients" in found.said[0]
    found = look_for_slides(str(tmp_path), {"clinical table": str(table), "slide table": str(table)}, TCGA_CRC)
    assert (found.state, found.where) == (HERE, str(tmp_path))
