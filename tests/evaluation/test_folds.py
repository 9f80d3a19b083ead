"""Folds are the published ones, of patients, and a file that contradicts itself is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, train_test_split

from histojax.common.errors import UserError
from histojax.evaluation.folds import Fold, check_classes, make_folds, read_folds, with_validation, write_folds

NAMES = [f"P{i:02d}" for i in range(40)]
LABELS = np.array([0, 0, 0, 1] * 10)


def test_they_are_the_published_ones_whatever_the_order():
    made = make_folds(NAMES, LABELS, 5, 3)
    splitter = StratifiedKFold(5, shuffle=True, random_state=3)
    for fold, (rest, test) in zip(made, splitter.split(NAMES, LABELS)):
        train, validation = train_test_split(rest, stratify=LABELS[rest], random_state=3)
        assert fold.test == tuple(NAMES[i] for i in test)
        assert set(fold.train) == {NAMES[i] for i in train} and set(fold.validation) == {NAMES[i] for i in validation}
    assert [len(getattr(made[0], part)) for part in ("train", "validation", "test")] == [24, 8, 8]
    turned = make_folds(NAMES[::-1], LABELS[::-1], 5, 3)
    assert turned == made
    assert len(make_folds(NAMES, None, 4)) == 4


def test_a_file_keeps_them_and_can_be_written_by_hand(tmp_path):
    made = make_folds(NAMES, LABELS)
    write_folds(tmp_path / "folds.json", made, "abc", {"seed": 0})
    assert read_folds(tmp_path / "folds.json", NAMES, "abc") == (made, [])
    _, notes = read_folds(tmp_path / "folds.json", [*NAMES, "Q"], "other")
    assert "patients_sha256" in notes[0] and "1 patients of the cohort are in no fold, the first: Q" in notes[1]
    rows = [f"{name},{i},{part}" for i, f in enumerate(made) for part in ("train", "val", "test")
            for name in getattr(f, {"val": "validation"}.get(part, part))]  # fmt: skip
    (tmp_path / "folds.csv").write_text("PATIENT,fold,part\n" + "\n".join(rows) + "\n")
    assert read_folds(tmp_path / "folds.csv", NAMES, "")[0] == made


def test_without_validation_a_quarter_of_training_validates(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"folds": [{"train": NAMES[:20], "test": NAMES[20:]}]}))
    folds, notes = read_folds(tmp_path / "f.json", NAMES, "")
    assert "no validation part" in notes[-1]
    (fold,) = with_validation(folds, dict(zip(NAMES, LABELS.tolist())))
    assert len(fold.train) == 15 and len(fold.validation) == 5 and fold.test == tuple(NAMES[20:])
    assert set(fold.train) | set(fold.validation) == set(NAMES[:20])
    with pytest.raises(UserError, match="none to validate"):
        with_validation([Fold(("a", "b"), (), ("c",))], None)


@pytest.mark.parametrize(
    ("fold", "match"),
    [
        ({"train": ["P01"], "test": ["P01"]}, r"P01 is twice in fold 0 .train and test."),
        ({"train": ["P01", "P01"], "test": ["P02"]}, r"P01 is twice in fold 0 .train."),
        ({"train": ["P01"], "test": ["stranger"]}, "stranger .test., who is not in the cohort"),
        ({"train": [], "test": ["P02"]}, "no patients in train"),
        ({"train": ["P01"], "probe": ["P02"]}, "a part 'probe'"),
        ({"train": "P01", "test": ["P02"]}, "lists of patients"),
    ],
)
def test_folds_that_contradict_themselves(tmp_path, fold, match):
    (tmp_path / "f.json").write_text(json.dumps({"folds": [fold]}))
    with pytest.raises(UserError, match=match):
        read_folds(tmp_path / "f.json", NAMES, "")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("PATIENT,fold\nP01,0\n", "no column part"),
        ("PATIENT,fold,part\nP01,one,train\n", "line 2: fold 'one'"),
        ("PATIENT,fold,part\nP01,0,learn\n", "part 'learn'"),
        ("PATIENT,fold,part\nP01,1,train\nP02,1,test\n", "expected 0 to 0"),
    ],
)
def test_tables_of_folds_that_are_none(tmp_path, text, match):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(UserError, match=match):
        read_folds(tmp_path / "f.csv", NAMES, "")


def test_too_few_patients_are_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"3 patients, but only 1 of class b: 5 folds need 5"):
        make_folds(["x", "y", "z"], np.array([0, 0, 1]), classes=("a", "b"))
    with pytest.raises(UserError, match="take --folds 4"):
        make_folds(NAMES, np.array([1] * 4 + [0] * 36))
    with pytest.raises(UserError, match="nothing to tell apart"):
        make_folds(NAMES, np.zeros(40, int), classes=("a", "b"))
    with pytest.raises(UserError, match="3 patients are too few"):
        make_folds(["x", "y", "z"], None)
    with pytest.raises(UserError, match="expected 2 or more"):
        make_folds(NAMES, LABELS, 1)


def test_a_class_that_a_part_lacks():
    labels = {"a": 0, "b": 1, "c": 0, "d": 1}
    notes = check_classes([Fold(("a", "b"), ("c",), ("c", "d"))], labels, ("no", "yes"))
    assert notes == ["fold 0: nobody in validation is yes; its loss decides without it"]
    with pytest.raises(UserError, match="no training patient is yes"):
        check_classes([Fold(("a",), ("b",), ("c",))], labels, ("no", "yes"))
