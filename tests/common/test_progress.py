import io

import pytest

from histojax.common.progress import Progress, hms


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self):
        return True


def progress(stream, **how):
    clock = Clock()
    return clock, Progress(stream=stream, clock=clock, **how)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (100 * 3600 + 5, "100:00:05")]
)
def test_hms(seconds, text):
    assert hms(seconds) == text


def test_rates_leave_the_compilation_out():
    clock, p = progress(io.StringIO(), total=100)
    clock.now += 500  # compiling
    p.update(1, items=8)
    assert p.rates() == {}
    for step in range(2, 12):
        clock.now += 2
        p.update(step, items=8, waited_seconds=0.5)
    assert p.rates() == pytest.approx({"steps_per_second": 0.5, "images_per_second": 4, "data_wait_share": 0.25})
    assert p.elapsed_seconds == 520
    assert p.line() == "step 11/100 (11%) | 4 images/s | data wait 25% | ETA 0:02:58 | elapsed 0:08:40"


def test_rates_are_of_the_last_minute():
    clock, p = progress(io.StringIO(), total=1000)
    for step in range(1, 301):
        clock.now += 1 if step <= 200 else 4
        p.update(step, items=1)
    assert p.rates()["steps_per_second"] == pytest.approx(0.25)


def test_a_resumed_run_counts_only_its_own_steps():
    clock, p = progress(io.StringIO(), total=1000, start=900)
    p.update(900)
    clock.now += 10
    p.update(905)
    assert "ETA 0:03:10" in p.line() and p.line().startswith("step 905/1000 (90%)")


def test_plain_lines_are_rare_and_the_last_step_is_always_shown():
    stream = io.StringIO()
    clock, p = progress(stream, total=50)
    for step in range(1, 51):
        clock.now += 1
        p.update(step, values={"loss": 12.3456})
    p.note("a word")
    p.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/50", "11/50", "21/50", "31/50", "41/50", "50/50"]
    assert lines[-1] == "a word"
    assert "| loss 12.35 |" in lines[0] and "\r" not in stream.getvalue() and "ETA" not in lines[-2]


def test_a_terminal_gets_one_line_that_is_cut_to_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "20")
    stream = Terminal()
    clock, p = progress(stream, total=5)
    for step in range(1, 6):
        clock.now += 1
        p.update(step, items=4, values={"loss": 1.0, "dino_global": 2.0})
    p.note("best so far")
    p.close()
    text = stream.getvalue()
    assert text.count("\n") == 2 and text.endswith("\n")
    drawn = [part.removeprefix("\033[K") for part in text.split("\r")[1:]]
    assert all(len(part.splitlines()[0]) <= 39 for part in drawn if part.strip())
    assert "\033[Kbest so far\n" in text


def test_values_stay_until_replaced_and_a_terminal_is_not_flooded():
    stream = Terminal()
    clock, p = progress(stream, total=1000)
    p.update(1, values={"loss": 1.5})
    for step in range(2, 100):
        clock.now += 0.001
        p.update(step)
    assert stream.getvalue().count("\r") == 1
    assert "loss 1.5" in p.line()
    p.update(100, values={"loss": 12345.6})
    assert "loss 12346" in p.line()
