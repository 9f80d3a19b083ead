"""What a head was asked is asked again of a new cohort, of features like those it knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_cohort import WIDTH, write_cohort

from histojax.common.errors import UserError
from histojax.evaluation.cohort import read_means, read_unlabelled
from histojax.evaluation.cohort_tables import Question
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import save_head
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.slide_apply import Loaded, apply_heads, asked_question, load_heads
from histojax.evaluation.slide_folds import Judge

PARAMS = {"head": {"kernel": np.ones((WIDTH, 1), np.float32), "bias": np.zeros(1, np.float32)}}
HEAD = Head(HeadSettings("mean", WIDTH), "classification", ("negative", "positive"), PARAMS)


def loaded(**changes):
    return Loaded(Path("x.pth"), "mean", 0, replace(HEAD, **changes))


def test_a_published_head_takes_the_names_of_its_user():
    question = asked_question([loaded()], {"target": "isMSIH", "classes": ("no", "yes")}, True)
    assert question == Question("isMSIH", classes=("no", "yes"))
    with pytest.raises(UserError, match="--target"):
        asked_question([loaded()], {}, True)
    with pytest.raises(UserError, match=r"knows 2 classes .negative, positive."):
        asked_question([loaded()], {"classes": ("a", "b", "c")}, False)


def test_a_head_of_ours_remembers_the_question():
    told = {"target": "os", "task": "survival", "event": "died", "classes": []}
    head = loaded(task="survival", classes=(), facts={"question": told})
    assert asked_question([head], {}, True) == Question("os", "survival", "died")


def test_heads_of_a_folder_and_other_features(tmp_path):
    root = write_cohort(tmp_path / "new", 4)
    cohort = read_unlabelled([root / "features"], root / "slides.csv", Question("x"))
    judge = Judge(*read_means(cohort))
    assert cohort.units.tolist() == ["P00", "P01", "P02", "P03"]
    for fold in (0, 1):
        save_head(tmp_path / "heads" / f"mean-fold{fold}.safetensors", HEAD)
    heads = load_heads(tmp_path)
    found = apply_heads(heads, judge, "test")
    assert [(one.model, one.fold) for one in heads] == [("mean", 0), ("mean", 1)] and len(found) == 2
    wanted = 1 / (1 + np.exp(-judge.means.sum(1, dtype=np.float64)))
    np.testing.assert_allclose(found[0].probabilities[:, 1], wanted, rtol=1e-5)
    with pytest.raises(UserError, match=r"no heads of attention .* .it has mean."):
        load_heads(tmp_path, ("attention",))
    with pytest.raises(UserError, match=r"trained on features of width 7, .* has 6"):
        apply_heads([loaded(settings=HeadSettings("mean", 7))], judge, "test")
