"""Clinical and slide tables as HistoBistro, STAMP and people write them, and what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.cohort_tables import Question, has_slides, labels_sha256, read_clinical, read_slides


@pytest.fixture
def table(tmp_path):
    def write(text, name="clini.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_patients_come_sorted_with_their_classes(table):
    path = table("PATIENT,isMSIH,SITE\nB,1,x\nA,0,y\nC,,z\nD,0.0,\nA,0,q\n")
    found = read_clinical(path, Question("ismsih"))
    assert found.patients == ("A", "B", "D") and found.targets.tolist() == [0, 1, 0] and found.classes == ("0", "1")
    assert found.centres == {"A": "y", "B": "x", "C": "z"} and found.left_out == (
        ("C", "no target in the clinical table"),
    )
    assert any("several rows" in note for note in found.notes)


def test_text_becomes_classes_in_the_order_of_names_unless_told(table):
    path = table("patient_id;status\nA;nonMSIH\nB;MSIH\nC;unsure\n")
    found = read_clinical(
        path, Question("status", label_map={"MSIH": "high", "nonMSIH": "low"}, classes=("low", "high"))
    )
    assert found.classes == ("low", "high") and found.targets.tolist() == [0, 1]
    assert found.left_out[0][0] == "C" and "--label-map does not have" in found.left_out[0][1]
    found = read_clinical(table("patient,x\nA,no\nB,yes\nC,no\n"), Question("x"))
    assert found.classes == ("no", "yes") and "yes is the positive one" in found.notes[0]
    found = read_clinical(
        table("patient,x\n" + "".join(f"p{i},{10 if i % 2 else 9}\n" for i in range(4))), Question("x")
    )
    assert found.classes == ("9", "10")


def test_numbers_and_survival(table):
    path = table('PATIENT,age,os,died\nA,"50,5",3,1:DECEASED\nB,60,4.5,0:LIVING\nC,,1,1\n')
    found = read_clinical(path, Question("age", "regression"))
    assert found.targets.tolist() == [50.5, 60.0] and found.classes == ()
    found = read_clinical(path, Question("os", "survival", "died"))
    assert found.targets.tolist() == [[3, 1], [4.5, 0], [1, 1]] and found.patients == ("A", "B", "C")
    with pytest.raises(UserError, match=r"expected 1 .it happened."):
        read_clinical(path, Question("os", "survival", "age"))


@pytest.mark.parametrize(
    ("text", "question", "match"),
    [
        ("PATIENT,x\nA,0\nA,1\n", Question("x"), "patient A is 0 in line 2 and 1 in line 3"),
        ("PATIENT,isMSI\nA,0\nB,1\n", Question("isMSIH"), "did you mean isMSI"),
        ("PATIENT,x\nA,\nB,NA\n", Question("x"), "no patient has a value in x"),
        ("name,x\nA,1\nB,0\n", Question("x"), "--patient-column"),
        ("PATIENT,x,x\nA,1,1\nB,0,1\n", Question("x"), "2 columns are titled x"),
        ("PATIENT,x\n" + "".join(f"p{i},{i}.5\n" for i in range(40)), Question("x"), "--task regression"),
        ("PATIENT,x\nA,old\nB,2\n", Question("x", "regression"), "x of A is 'old', expected a number"),
        ("PATIENT,x\nA,a\nB,b\n", Question("x", classes=("a", "c")), "no patient is c"),
        ("PATIENT,x\n", Question("x"), "no patients"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_named(table, text, question, match):
    with pytest.raises(UserError, match=match):
        read_clinical(table(text), question)


def test_an_external_cohort_may_lack_a_class(table):
    path = table("PATIENT,x\nA,1\nB,1\n")
    found = read_clinical(path, Question("x", classes=("0", "1"), every_class=False))
    assert found.targets.tolist() == [1, 1] and "no patient is 0" in found.notes[0]
    with pytest.raises(UserError, match=r"no patient is a .x.; it has 1"):
        read_clinical(path, Question("x", classes=("a", "b"), every_class=False))


def test_questions_that_make_no_sense():
    for given, match in [
        ({"task": "survival"}, "--event"),
        ({"classes": ("a", "a")}, "different names"),
        ({"task": "regression", "classes": ("a", "b")}, "belong to classification"),
        ({"classes": ("a", "b"), "label_map": {"1": "c"}}, "not one of --classes"),
    ]:
        with pytest.raises(UserError, match=match):
            Question("x", **given)


def test_a_slide_belongs_to_one_patient(table):
    path = table("FILENAME,PATIENT\ns2.h5,B\ns1,A\ns1,A\ns3,A\n,B\n", "slides.csv")
    assert read_slides(path, Question("x")) == [("A", "s1"), ("A", "s3"), ("B", "s2.h5")]
    with pytest.raises(UserError, match=r"s1 is of two patients, A .line 2. and B .line 3."):
        read_slides(table("FILENAME,PATIENT\ns1,A\ns1,B\n"), Question("x"))
    assert has_slides(path, Question("x")) and not has_slides(table("PATIENT,x\nA,1\n"), Question("x"))


def test_the_hash_can_be_computed_by_hand():
    import hashlib

    wanted = hashlib.sha256(b"A\thigh\nB\tlow\n").hexdigest()
    assert labels_sha256(["B", "A"], np.array([0, 1]), ("low", "high")) == wanted
