"""What folders say: classes, parts of a split, patients; and what is said where they can be read in two ways."""

import pytest

from histojax.data.layout import is_split, read_layout

SPLITS = (
    "train training val valid validation test testing dev development tuning discovery holdout hold-out internal_test "
    "external_test train-1 test_A fold0 fold_3 Train VAL test2 train_set TestSet trainA internal external k-fold-2 "
    "val_id id_val ood_test cv1 split_2 eval train_images training-data validation_set"
).split()
CLASSES = "ADI TUM normal tumor trainer value tests_positive grade1 fold internalized devil intest stroma 0 1 A".split()


@pytest.mark.parametrize("name", SPLITS)
def test_names_of_parts(name):
    assert is_split(name)


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_classes(name):
    assert not is_split(name)


def layout(*folders, each=2):
    return read_layout([f"{folder}/{i}.png" for folder in folders for i in range(each)])


def classes(*folders):
    return sorted(set(layout(*folders).classes))


def crossed(first, second):
    return [f"{a}/{b}" for a in first for b in second]


KINDS = {"ADI", "TUM"}


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("Training", "Testing"), ("fold0", "fold1"), ("train-1", "test_A")]
)
def test_classes_above_and_below_the_parts_of_a_split(parts):
    for folders in (crossed(parts, KINDS), crossed(KINDS, parts), [f"set/{f}" for f in crossed(parts, KINDS)]):
        found = layout(*folders)
        assert set(found.classes) == KINDS
        assert any("are read together" in note for note in found.notes)


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (["train/ADI", "train/TUM"], ["ADI", "TUM"]),
        (["train/ADI", "train/TUM", "test"], ["", "ADI", "TUM"]),
        (["train", "val"], [""]),
        (["ADI", "TUM", "test/ADI", "test/TUM"], ["ADI", "TUM"]),
        (["train/images/ADI", "train/images/TUM", "val/images/ADI"], ["ADI", "TUM"]),
        (["10x/ADI", "10x/TUM", "40x/ADI", "40x/TUM"], ["ADI", "TUM"]),
        (["ADI/40X", "TUM/100X"], ["ADI", "TUM"]),
        (["site1/ADI", "site1/TUM", "site2/ADI", "site2/TUM"], ["ADI", "TUM"]),
        (["1/ADI", "1/TUM", "2/ADI", "2/TUM"], ["ADI", "TUM"]),
        (["01_TUMOR", "02_STROMA"], ["01_TUMOR", "02_STROMA"]),
        (["grade1", "grade2", "grade3"], ["grade1", "grade2", "grade3"]),
        (["pT1", "pT2", "pT3"], ["pT1", "pT2", "pT3"]),
        (["0", "1"], ["0", "1"]),
        (["ADI", "TUM", "unlabeled"], ["", "ADI", "TUM"]),
        (["CRC_DX_TRAIN/MSS", "CRC_DX_TRAIN/MSI", "CRC_DX_TEST/MSS", "CRC_DX_TEST/MSI"], ["MSI", "MSS"]),
        (["CRC_DX_TRAIN", "CRC_DX_TEST"], [""]),
        (["train_benign", "train_malignant", "test_benign", "test_malignant"], ["benign", "malignant"]),
        (["test_positive", "test_negative"], ["test_negative", "test_positive"]),
        (
            [f"{s}/{k}" for s in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K") for k in ("ADI", "DEB", "TUM")],
            ["ADI", "DEB", "TUM"],
        ),
    ],
)
def test_classes(folders, wanted):
    assert classes(*folders) == wanted


@pytest.mark.parametrize("folders", [["train", "val"], ["10x", "40x"]])
def test_no_class_at_all_is_said(folders):
    assert layout(*folders).notes


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A1-A0SD-01Z-00-DX1"], "patient"),
        (["patient_01", "patient_02"], "patient"),
        (["P1", "P2", "P3"], "patient"),
        (["case-7", "case-9"], "patient"),
        (["tumor_001", "normal_017"], "slide"),
        (["S19-12345", "S20-00017"], "slide"),
        (["10253", "10262"], "slide"),
        (["a.svs", "b.svs"], "slide"),
        ([f"{i:02d}" for i in range(30)], "slide"),
    ],
)
def test_patients_and_slides_are_no_classes(ids, kind):
    alone = layout(*ids)
    assert not any(alone.classes) and alone.kind == kind and len(set(alone.groups)) == len(ids)
    assert f"look like {kind}s, not classes" in alone.notes[0]
    for folders in (crossed(ids, ["0", "1"]), crossed(["adenoma", "normal"], ids)):
        both = layout(*folders)
        assert len(set(both.classes)) == 2 and len(set(both.groups)) == len(ids) and not both.notes
        assert both.kind == kind


def test_two_readings_give_no_labels_and_say_so():
    found = layout(*crossed(["Bern", "Graz"], ["ADI", "BACK", "DEB"]))
    assert not any(found.classes) and "either the folders Bern, Graz are the classes or ADI" in (found.notes[0])
    assert set(layout("ADI/a", "ADI/b", "TUM/c", "TUM/d").classes) == KINDS


def test_what_could_be_classes_as_well_is_said():
    assert "within the classes (a, b, c, d) are not told apart" in layout("ADI/a", "ADI/b", "TUM/c", "TUM/d").notes[0]
    assert "slide1, slide2 look like slides: are they classes?" in layout("slide1", "slide2", "normal").notes[0]
    assert not layout("ADI", "TUM/deeper").notes


def test_barcodes_in_file_names_are_patients():
    names = [f"{kind}/TCGA-A1-A0S{i}-01Z_{x}.png" for kind in KINDS for i in range(3) for x in range(2)]
    found = read_layout(names)
    assert found.kind == "patient" and sorted(set(found.groups)) == [f"TCGA-A1-A0S{i}" for i in range(3)]
    assert read_layout([*names, "ADI/other.png"]).groups is None


def test_spellings_of_one_class():
    assert classes("Tumo\u0308r", "Tum\u00f6r", "normal") == ["Tum\u00f6r", "normal"]
    assert "are Tumor, tumor one class?" in layout("train/tumor", "train/normal", "val/Tumor").notes[-1]
