"""The end of an extraction in words: numbers that add up, and never more lines than a screen has."""

from histojax.common.work import Outcome
from histojax.features.folder import EMPTY, FAILED, Report
from histojax.features.jobs import Job
from histojax.features.summary import Summary, in_words, joined, reason_of


def test_every_slide_is_counted_once():
    states = ["done"] * 3 + [EMPTY] * 7 + [FAILED] * 30
    reports = [Report(f"s{n}", f"s{n}.svs", state=state, reason="x" * (n > 2)) for n, state in enumerate(states)]
    lines = list(in_words(Summary(reports, before=1, notes=[f"note {n}" for n in range(50)])))
    assert lines[0] == "slides      40: 2 done now, 1 before, 7 without a tile, 30 could not be used"
    assert [line for line in lines if line.startswith(("no tile     and", "note        and", "failed      and"))] == [
        "no tile     and 2 more",
        "note        and 30 more",
        "failed      and 10 more, see failed.csv",
    ]
    assert len(lines) < 60


def test_parts_add_up():
    parts = [
        Summary([Report(name, "")], 1, 10, seconds, waited) for name, seconds, waited in (("b", 3, 0.2), ("a", 1, 1))
    ]
    whole = joined(parts, [Job("a", ""), Job("b", "")])
    assert [report.slide for report in whole.reports] == ["a", "b"]
    assert (whole.before, whole.tiles, whole.seconds) == (2, 20, 4) and abs(whole.waited - 0.4) < 1e-9


def test_a_reason_does_not_repeat_the_state():
    assert reason_of(Outcome(1, error="quarantined: 3 processes ended", quarantined=True)) == "3 processes ended"
