"""What picks the best checkpoint, by labels or without, and how the doubt about it is told."""

import dataclasses

import numpy as np
import pytest
from finished_run import make_run
from tiny_recipe import tiny_config

from histojax.__main__ import main as histojax
from histojax.common.errors import UserError
from histojax.evaluation.evaluators import evaluators
from histojax.evaluation.online import EvalTiles
from histojax.training import choice
from histojax.zoo.encoder import load_encoder
from histojax.zoo.run_weights import find_run

KNN, RANKME = evaluators()[0], next(row for row in evaluators() if row.name == "rankme")
METRIC, WIDE = KNN.metric(), KNN.interval()


def tiles(no_best="", parts=("fit", "fit", "validation", "test")):
    return EvalTiles(lambda: [], np.zeros(len(parts), int), np.array(parts), how="split by patient", no_best=no_best)


@pytest.mark.parametrize(
    ("best", "no_best", "name"),
    [
        ("auto", "", "knn"),
        ("auto", "no labels", "rankme"),
        ("knn", "", "knn"),
        ("knn", "one patient", None),
        ("rankme", "", "rankme"),
        ("last", "", None),
    ],
)
def test_who_chooses(best, no_best, name):
    config = tiny_config(checkpoint__best=best)
    row = choice.chooser_of(config, tiles(no_best))
    assert (row and row.name) == name
    words = choice.in_words(config, tiles(no_best))
    expected = {"knn": "20-NN on validation", "rankme": "RankMe rises with noise", None: no_best or "best=last"}
    assert expected[name] in words


def run_through(row, evaluations, first=None):
    """The best after each evaluation, as (step, score)."""
    best, found = {}, []
    for step, values in enumerate(evaluations, start=1):
        best = choice.better(row, step, values, first or {}, best) or best
        found.append((best.get("step"), best.get("score")))
    return found


def test_the_first_of_the_highest_scores_is_kept():
    scores = [{METRIC: score} for score in (0.5, 0.7, 0.7, 0.6)] + [{}]
    assert run_through(KNN, scores) == [(1, 0.5), *[(2, 0.7)] * 4]
    assert choice.better(None, 1, scores[0], {}, {}) == {}


def test_rank_alone_does_not_choose():
    """Features that fall together with noise around them rank high: their spread does not hold."""
    looks = [{"rankme": rank, "eval_spread": spread} for rank, spread in ((40, 0.8), (50, 0.7), (90, 0.3), (60, 0.75))]
    assert [step for step, _ in run_through(RANKME, looks, {"eval_spread": 0.85})] == [1, 2, 2, 4]
    assert run_through(RANKME, [{"rankme": 40.0}], {"eval_spread": 0.8}) == [(None, None)]
    assert run_through(RANKME, [{"rankme": 40.0, "eval_spread": 0.1}]) == [(1, 40.0)]  # begun from nothing


def test_a_best_by_another_metric_does_not_count():
    old = {"metric": "rankme", "score": 90.0, "step": 3, "values": {}}
    assert choice.better(KNN, 4, {METRIC: 0.4}, {}, old)["step"] == 4


def best_of(step, score, wide=None):
    values = {METRIC: score, KNN.metric("test"): 0.6} | ({} if wide is None else {WIDE: wide})
    return {"metric": METRIC, "score": score, "step": step, "values": values}


def test_a_choice_that_noise_could_have_made_is_said_to_be_one():
    assert choice.doubt(KNN, best_of(2, 0.62, 0.05), best_of(1, 0.6, 0.05)) == (
        "best checkpoint: step 2 instead of 1, 20-NN 0.62 after 0.6 on validation, a difference within its interval "
        "of +- 0.05"
    )
    assert choice.doubt(KNN, best_of(2, 0.7, 0.05), best_of(1, 0.6, 0.05)) == ""
    assert choice.doubt(KNN, best_of(2, 0.62), best_of(1, 0.6)) == "" == choice.doubt(KNN, best_of(1, 0.6, 0.05), {})
    rows = [{"step": step, METRIC: score} for step, score in ((0, 0.69), (4, 0.66), (8, 0.7), (9, 0.6))]
    rows.append({"step": 10, "loss": 1.0})
    assert choice.rivals(KNN, best_of(8, 0.7, 0.05), rows) == [4]
    words = choice.told(tiny_config(), tiles(), best_of(8, 0.7, 0.05), {METRIC: 0.7}, rows)
    assert words == (
        "chosen on validation (1 tiles): the checkpoint of step 8, 20-NN 0.7 +- 0.05 there and 0.6 on test, no surer "
        "than step 4, and no better than the start, 0.7"
    )
    few = dataclasses.replace(tiles(), groups=np.array(["p1", "p1", "p2", "p3"]))
    words = choice.told(tiny_config(), few, best_of(8, 0.7, 0.05), {}, [])
    assert words.startswith("chosen on validation (1 tiles of 1 group): ")
    assert "0.7 +- 0.05 (too narrow, of so few groups) there" in words and words.endswith("0.6 on test")


def test_without_labels_the_words_say_that_it_is_a_hint():
    best = {"metric": "rankme", "score": 51.0, "step": 8, "values": {"rankme": 51.0, "eval_spread": 0.7}}
    words = choice.told(tiny_config(), tiles("no labels", ("fit",) * 3), best, {}, [])
    assert words.startswith("chosen without labels: the checkpoint of step 8, RankMe 51 on 3 tiles, eval_spread 0.7; ")
    assert words.endswith(choice.HINT) and "a hint only" in choice.HINT


def test_the_best_checkpoint_is_found_by_that_name(tmp_path, capsys):
    scores = {"first": {METRIC: 0.3}, "best": best_of(0, 0.46)}
    folder, _ = make_run(tmp_path / "mine", sources=[], export=False, notes=scores)
    best = folder / "checkpoints" / "best"
    assert find_run(best) == (folder, 0) == find_run(str(best))
    found, by_step = (load_encoder(path, batch_size=2) for path in (str(best), folder / "checkpoints" / "0"))
    assert found.weights_sha256 == by_step.weights_sha256 and "checkpoint of step 0" in found.notes
    assert histojax(["export", str(best), "--to", "timm", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "card.json").read_text()
    assert f'"{METRIC}": 0.46' in card and f'"{METRIC}": 0.3' in card


def test_a_run_without_a_best_says_which_steps_there_are(tmp_path):
    folder, _ = make_run(tmp_path / "mine", export=False)
    with pytest.raises(UserError, match=r"checkpoints: none was chosen as the best; name a step, there are 0$"):
        load_encoder(folder / "checkpoints" / "best")
    gone, _ = make_run(tmp_path / "gone", export=False, notes={"best": best_of(7, 0.5)})
    with pytest.raises(UserError, match=r"the best one, of step 7, is no longer there; name a step, there are 0$"):
        find_run(gone / "checkpoints" / "best")
