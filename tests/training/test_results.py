"""The closing words say which number chose and which is reported; notes of another version are refused in one line."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_recipe import tiny_config

from histojax.common.errors import UserError
from histojax.evaluation.evaluators import evaluators
from histojax.evaluation.online import EvalTiles
from histojax.training import results
from histojax.training.loop import Notes

BEFORE = {"test/knn_balanced_accuracy": 0.28, "test/ridge_balanced_accuracy": 0.3, "rankme": 9.0}
BASELINE = {"histogram/test/knn_balanced_accuracy": 0.43}
AFTER = {"test/knn_balanced_accuracy": 0.44, "test/ridge_balanced_accuracy": 0.5, "rankme": 12.0}
BEST = {"metric": "validation/knn_balanced_accuracy", "score": 0.46, "step": 8, "values": AFTER}


def words(parts=("fit", "fit", "validation", "test"), no_best="", best=BEST, kept=(8, 9), **leaves):
    """The lines about scores of a run with these evaluation tiles."""
    tiles = EvalTiles(lambda: [], np.zeros(len(parts), int), np.array(parts), how="split by class", no_best=no_best)
    loop = SimpleNamespace(
        config=tiny_config(**leaves),
        tiles=tiles,
        evaluators=evaluators(),
        notes=Notes(first=BEFORE | BASELINE, last=AFTER, best=best),
        checkpoints=SimpleNamespace(steps=lambda: list(kept)),
        workdir=Path("run"),
    )
    return results._scores(loop)


def test_what_was_chosen_and_what_is_reported():
    assert words(data__train="mine") == [
        "reported on test (1 tiles of mine; split by class):",
        "  Balanced accuracy of the teacher by 20-NN: before 0.28, after 0.44 (colour histogram 0.430)",
        "  Balanced accuracy of the teacher by ridge probe: before 0.3, after 0.5",
        "chosen on validation (1 tiles): the checkpoint of step 8, 20-NN 0.46 there and 0.44 on test, "
        "kept in run/checkpoints",
    ]
    assert words(kept=())[-1].endswith("on test, no longer there")
    assert words(data__train="synthetic:64")[0].startswith(
        "reported on test (1 tiles of synthetic:64, which is not hist"
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"parts": ("fit", "test"), "no_best": "one patient", "best": {}}, "one patient"),
        ({"checkpoint__best": "last", "best": {}}, "checkpoint.best=last"),
        ({"best": {}}, "none was evaluated"),
    ],
)
def test_where_nothing_was_chosen_that_is_said(how, why):
    last = words(**how)[-1]
    assert last.startswith("no checkpoint was chosen as the best") and why in last


def test_without_labels_the_first_numbers_stand_alone():
    line, chosen = words(parts=("fit",) * 3, no_best="no labels", best={})
    assert line == "RankMe of the teacher's features: before 9, after 12, on 3 tiles (split by class)"
    assert chosen == "no checkpoint was chosen as the best: none was evaluated (no labels)"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda notes: notes.pop("evaluation_due"), "evaluation_due"),
        (lambda notes: notes.update(mood="good"), "mood"),
        (lambda notes: notes.update(best={"score": 0.9, "step": 4}), "best"),
    ],
    ids=["missing", "unknown", "chosen on test"],
)
def test_notes_of_another_version_are_refused_in_one_line(change, named):
    saved = dataclasses.asdict(Notes(best=BEST))
    assert Notes.read(saved, "run/checkpoints/4") == Notes(best=BEST)
    change(saved)
    with pytest.raises(UserError, match=rf"^run/checkpoints/4: .*another version .*differ: {named}\).*--workdir$"):
        Notes.read(saved, "run/checkpoints/4")


@pytest.mark.parametrize(("kept", "step", "lines"), [((8, 9), 9, 3), ((8, 9), 8, 1), ((9,), 9, 1)])
def test_the_best_is_one_command_away_where_it_is_another_step(kept, step, lines):
    tiles = EvalTiles(lambda: [], np.zeros(2, int), np.array(["validation", "test"]))
    loop = SimpleNamespace(
        config=tiny_config(),
        tiles=tiles,
        notes=Notes(best=BEST),
        checkpoints=SimpleNamespace(steps=lambda: list(kept)),
        step=step,
        workdir=Path("run"),
    )
    found = results._commands(loop)
    assert len(found) == lines and "--encoder run --input" in found[0]
    if lines == 3:
        assert "step 8, the best: --encoder run/checkpoints/best" in found[1]
        assert "histojax.export run/checkpoints/best --to timm --out run/best_timm" in found[2]
