import json
import math
import random

import pytest

from histojax.config import paper
from histojax.evaluation.evaluators import Evaluator
from histojax.training.monitor import Monitor, Thresholds

K = 65536
CAP = 2 * 0.1 * -math.log(1e-4 * math.sqrt(384) + 1e-8)  # ViT-S


def monitor(**how):
    return Monitor(K, CAP, **how)


def healthy(step, noise=0.02):
    """A row as a good run of the paper's configuration logs it: falling losses, a little noise."""
    rng = random.Random(step)

    def about(value):
        return value * (1 + noise * rng.uniform(-1, 1))

    t = min(step / 2000, 1)
    terms = {
        "dino_global": about(1.1 - 0.3 * t),
        "dino_local": about(8.5 - 2.5 * t),
        "ibot": about(9 - 3 * t),
        "koleo": about(0.12 - 0.05 * t),
    }
    return {
        **terms,
        "loss": sum(terms.values()),
        "grad_norm/backbone": about(1.5),
        "grad_norm/dino_head": about(0.4),
        "teacher_entropy": about(9.8 - 2 * t),
        "feature_spread": about(0.8 - 0.1 * t),
        "prototype_use": about(0.7),
        "skipped": 0.0,
    }


def verdicts(m, changes, start=0, stop=1000, every=10):
    """The verdicts of a healthy trace whose rows `changes(step)` overrides."""
    found = (m.update(step, {**healthy(step), **changes(step)}) for step in range(start, stop, every))
    return [verdict for verdict in found if verdict]


def after(step, **values):
    return lambda now: values if now >= step else {}


def test_a_healthy_run_is_left_alone():
    m = monitor()
    assert verdicts(m, lambda step: {}, stop=4000) == []
    for i, score in enumerate((0.87, 0.88, 0.90, 0.89, 0.92, 0.915, 0.93)):
        assert m.update_evaluation(1000 * i, {"validation/knn_balanced_accuracy": score, "rankme": 140 - 8 * i}) is None


def test_a_rising_loss_while_the_teacher_temperature_warms_up_is_healthy():
    assert verdicts(monitor(), lambda step: {"loss": 18 + 4 * min(step / 3000, 1)}, stop=4000) == []


def test_a_random_start_with_close_features_is_healthy():
    assert verdicts(monitor(), lambda step: {"feature_spread": 0.05 + 0.5 * min(step / 2000, 1)}, stop=3000) == []


def one_vector(until):
    """A random ViT with LayerScale 1e-5: all tiles are one vector until the learning rate has risen."""
    flat = {"feature_spread": 2e-5, "teacher_entropy": math.log(K) - 1e-4, "koleo": 0.99 * CAP}
    return lambda step: flat if step < until else {}


def test_a_random_start_from_one_vector_has_the_warm_up_to_leave_it():
    assert verdicts(monitor(warmup_steps=1000), one_vector(900), stop=3000) == []
    found = verdicts(monitor(warmup_steps=1000), one_vector(9000), stop=1400)
    assert {(v.kind, v.level, v.step) for v in found} == {("collapse", "stop", 1020)}


def test_good_features_that_collapse_in_the_warm_up_stop():
    found = verdicts(monitor(warmup_steps=1000), lambda step: one_vector(9000)(step) if step > 400 else {}, stop=700)
    assert [(v.kind, v.level, v.step) for v in found] == [("collapse", "stop", 430)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_at_once_even_in_the_first_steps(value):
    (verdict,) = verdicts(monitor(), lambda step: {"loss": value, "skipped": 1.0}, stop=10)
    assert (verdict.level, verdict.kind, verdict.step) == ("stop", "not_finite", 0)
    assert f"loss={value}" in verdict.cause


@pytest.mark.parametrize(
    ("broken", "cause", "advice"),
    [
        (("koleo", "loss"), "KoLeo broke first", "loss.koleo_eps=1e-4"),
        (("ibot", "loss"), "ibot broke first", "optim.base_lr"),
        (
            ("dino_global", "dino_local", "ibot", "koleo", "loss"),
            "the student's features broke first",
            "optim.base_lr",
        ),
        (
            ("feature_spread", "teacher_entropy", "ibot", "loss"),
            "the teacher's output broke first",
            "starting weights",
        ),
        (("grad_norm/backbone",), "grad_norm/backbone overflowed in the backward pass", "optim.base_lr"),
    ],
)
def test_the_term_that_broke_first_is_named(broken, cause, advice):
    row = {**healthy(500), **dict.fromkeys(broken, math.inf), "skipped": 1.0}
    verdict = monitor().update(500, row)
    assert verdict.stop and cause in verdict.cause and advice in verdict.advice
    assert f"{next(name for name in row if name in broken)}=inf" in verdict.cause


def test_one_skipped_step_warns_and_a_row_of_them_stops():
    m = monitor()
    row = {"ibot": math.nan, "loss": math.nan, "skipped": 0.1}
    (verdict,) = verdicts(m, lambda step: row if step == 300 else {})
    assert (verdict.level, verdict.step) == ("warning", 300)
    found = verdicts(monitor(), lambda step: row if step >= 300 else {}, stop=340)
    assert [(v.level, v.step) for v in found] == [("warning", 300), ("stop", 320)]


def test_collapse_is_warned_of_and_then_stops():
    def fall(step):
        return {"feature_spread": 0.8 * math.exp(-max(step - 300, 0) / 100)}

    warning, stop = verdicts(monitor(), fall, stop=900)
    assert (warning.kind, warning.level) == ("collapse", "warning") and 420 < warning.step < 460
    assert (stop.kind, stop.level) == ("collapse", "stop") and 530 < stop.step < 570
    assert "0.8" in stop.cause and "optim.base_lr" in stop.advice


def test_a_random_start_that_never_leaves_one_vector_stops():
    (verdict,) = verdicts(monitor(), lambda step: {"feature_spread": 0.002}, stop=600)
    assert (verdict.kind, verdict.level, verdict.step) == ("collapse", "stop", 220)


def test_a_dip_of_two_looks_is_not_a_collapse():
    assert verdicts(monitor(), lambda step: {"feature_spread": 0.01} if step in (400, 410) else {}) == []


def test_uniform_targets():
    (verdict,) = verdicts(monitor(), after(400, teacher_entropy=math.log(K) - 0.001), stop=600)
    assert (verdict.kind, verdict.level, verdict.step) == ("uniform", "stop", 420)
    assert "11.0894 of at most 11.0904" in verdict.cause


def test_one_hot_targets_warn():
    (verdict,) = verdicts(monitor(), after(400, teacher_entropy=0.01), stop=500)
    assert (verdict.kind, verdict.level) == ("one_hot", "warning")


def test_koleo_at_its_cap_names_duplicates():
    (verdict,) = verdicts(monitor(), after(400, koleo=0.999 * CAP), stop=500)
    assert (verdict.kind, verdict.level) == ("duplicates", "stop")
    assert "100% of its cap 1.247" in verdict.cause and "duplicate or blank tiles" in verdict.advice
    (verdict,) = verdicts(monitor(), after(400, koleo=0.6 * CAP), stop=500)
    assert (verdict.kind, verdict.level) == ("duplicates", "warning")
    assert verdicts(Monitor(K, koleo_cap=0.0), after(400, koleo=0.0), stop=500) == []


def test_divergence_needs_five_looks_and_an_outlier_is_none():
    (verdict,) = verdicts(monitor(), after(500, loss=40.0), stop=600)
    assert (verdict.kind, verdict.level, verdict.step) == ("divergence", "stop", 540)
    assert "its median was 1" in verdict.cause and "learning rate is too high" in verdict.advice
    assert verdicts(monitor(), lambda step: {"loss": 40.0} if step % 50 == 0 else {}) == []


def test_a_lasting_divergence_does_not_become_the_norm():
    found = verdicts(monitor(), after(500, loss=40.0), stop=1500)
    assert [(v.kind, v.step) for v in found] == [("divergence", 540), ("divergence", 1040)]


def test_nothing_but_broken_numbers_counts_in_the_grace_steps():
    bad = {"feature_spread": 0.001, "teacher_entropy": math.log(K), "koleo": CAP, "loss": 1e6}
    assert verdicts(monitor(), lambda step: bad if step > 50 else {}, stop=200) == []
    assert verdicts(monitor(grace_steps=0), lambda step: bad if step > 50 else {}, stop=200) != []


def scores(m, *values):
    return [
        m.update_evaluation(1000 * i, {"validation/knn_balanced_accuracy": value}) for i, value in enumerate(values)
    ]


def test_a_falling_score_warns_and_then_stops():
    found = scores(monitor(), 0.88, 0.90, 0.86, 0.85, 0.84, 0.83)
    assert [v and v.level for v in found] == [None, None, "warning", None, "stop", None]
    assert "0.840 is below the 0.900 of step 1000" in found[4].cause
    assert "best checkpoint" in found[4].advice


def test_a_score_that_comes_back_starts_the_count_again():
    found = scores(monitor(), 0.90, 0.86, 0.86, 0.89, 0.86, 0.86)
    assert [v and v.level for v in found] == [None, "warning", None, None, "warning", None]


def test_the_test_part_is_not_looked_at():
    m = monitor()
    found = [
        m.update_evaluation(i, {"test/knn_balanced_accuracy": value}) for i, value in enumerate((0.9, 0.1, 0.1, 0.1))
    ]
    assert found == [None] * 4


def test_an_evaluator_of_one_s_own_is_watched_as_its_row_says():
    rows = [Evaluator("own", dict, "own_score", "own", "Own", needs_labels=False, watch="best")]
    m = monitor(rows=rows)
    found = [m.update_evaluation(i, {"own_score": value, "rankme": 1 / (1 + i)}) for i, value in enumerate((0.9, 0.5))]
    assert found[0] is None and found[1].kind == "own_fell"
    assert found[1].cause == "own_score 0.500 is below the 0.900 of step 0"


def test_rankme_against_its_start():
    m = monitor()
    found = [m.update_evaluation(i, {"rankme": value}) for i, value in enumerate((150.0, 90.0, 60.0, 20.0))]
    assert [v and v.level for v in found] == [None, None, "warning", "stop"]
    assert "from 150.0 to 20.0" in found[3].cause


def test_an_evaluation_without_numbers_means_broken_features():
    verdict = monitor().update_evaluation(1000, {})
    assert (verdict.kind, verdict.level) == ("no_features", "stop")


def test_the_worst_of_several_problems_is_told():
    m = monitor(grace_steps=0, thresholds=Thresholds(looks=1))
    verdict = m.update(10, {**healthy(10), "teacher_entropy": 0.0, "koleo": CAP})
    assert (verdict.kind, verdict.level) == ("duplicates", "stop")


def test_a_lasting_problem_is_told_again_now_and_then():
    found = verdicts(monitor(), after(400, teacher_entropy=0.01), stop=2000)
    assert [v.step for v in found] == [420, 920, 1420, 1920]


def test_a_resumed_monitor_says_the_same_and_remembers_the_same():
    def trouble(step):
        return {
            "feature_spread": 0.8 * math.exp(-max(step - 300, 0) / 100),
            "loss": 40.0 if step > 700 else 20.0,
            "koleo": 0.6 * CAP if step % 100 > 50 else 0.1,
        }

    straight = monitor()
    everything = verdicts(straight, trouble, stop=1200)
    straight.update_evaluation(1200, {"rankme": 30.0, "validation/knn_balanced_accuracy": 0.9})
    for cut in range(0, 1200, 70):
        first = monitor()
        found = verdicts(first, trouble, stop=cut)
        second = monitor()
        second.set_state(json.loads(json.dumps(first.get_state(), allow_nan=False)))
        found += verdicts(second, trouble, start=len(range(0, cut, 10)) * 10, stop=1200)
        second.update_evaluation(1200, {"rankme": 30.0, "validation/knn_balanced_accuracy": 0.9})
        assert found == everything
        assert second.get_state() == straight.get_state()
    assert len(everything) >= 3


def test_the_state_is_json_after_broken_rows_too():
    m = monitor()
    verdicts(m, lambda step: dict.fromkeys(healthy(0), math.nan), stop=400)
    m.update_evaluation(400, {"rankme": math.nan, "validation/knn_balanced_accuracy": math.nan})
    json.dumps(m.get_state(), allow_nan=False)
    m.set_state({})
    assert m.get_state()["counts"]["not_finite"] == 40


def test_from_config():
    config = paper()
    m = Monitor.from_config(config)
    assert (
        m.most_entropy == math.log(65536)
        and m.koleo_cap == pytest.approx(CAP)
        and (m.grace_steps, m.warmup_steps) == (200, 1000)
    )
    config.loss.koleo_weight = 0.0
    assert Monitor.from_config(config).koleo_cap == 0


def test_a_verdict_reads_as_a_sentence():
    text = str(monitor().update(7, {"loss": math.inf}))
    assert text.startswith("stop at step 7: loss=inf: ") and "base_lr" in text
