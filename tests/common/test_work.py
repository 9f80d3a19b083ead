"""Units of work in processes: order of readiness, errors of one unit, processes that die, the end of the parent."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from histojax.common.errors import UserError
from histojax.common.work import ahead, run


class Bad(Exception):
    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


def double(unit):
    return 2 * unit


def fail_on_three(unit):
    if unit == 3:
        raise Bad("is three")
    if unit == 4:
        raise TypeError("what is this?")
    return unit


def die_on_three(unit):
    if unit == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.getpid()


def die_once(path):
    if not os.path.exists(path):
        with open(path, "w"):
            os._exit(7)
    return "done"


def fill_the_disk(unit):
    raise UserError("the disk is full; make room")


@pytest.mark.parametrize("workers", (0, 2))
def test_every_unit_has_its_outcome(workers):
    assert sorted(o.value for o in run(double, range(7), workers)) == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("workers", (0, 2))
def test_an_exception_is_the_outcome_of_its_unit_alone(workers):
    outcomes = {o.unit: o for o in run(fail_on_three, range(6), workers)}
    assert outcomes[3].error == "is three" and not outcomes[3].trace
    assert outcomes[4].error == "TypeError: what is this?" and "fail_on_three" in outcomes[4].trace
    assert all(outcomes[i].value == i and not outcomes[i].error for i in (0, 1, 2, 5))


@pytest.mark.parametrize("workers", (0, 1))
def test_what_its_reader_has_to_act_on_ends_everything(workers):
    with pytest.raises(UserError, match="make room"):
        list(run(fill_the_disk, range(3), workers))


def test_a_unit_that_kills_its_process_is_quarantined_and_the_others_go_on():
    outcomes = {o.unit: o for o in run(die_on_three, range(6), 2, tries=2)}
    assert outcomes[3].quarantined and outcomes[3].error == (
        "quarantined: 2 processes that worked on it ended (SIGSEGV)"
    )
    assert sorted(outcomes) == list(range(6)) and not any(outcomes[i].error for i in (0, 1, 2, 4, 5))


def test_a_process_that_dies_once_is_replaced(tmp_path):
    (outcome,) = run(die_once, [str(tmp_path / "tried")], 1)
    assert outcome.value == "done" and not outcome.error


def test_units_are_taken_as_workers_become_free():
    taken = []
    outcomes = run(double, (taken.append(i) or i for i in itertools.count()), 2)
    next(outcomes)
    outcomes.close()
    assert len(taken) <= 4


def test_ahead_gives_the_same_items_and_errors():
    def items():
        yield from range(5)
        raise Bad("at the end")

    found = []
    with pytest.raises(Bad, match="at the end"):
        for item in ahead(items(), 2):
            found.append(item)
    assert found == list(range(5))
    stream = ahead(iter(range(1000)), 2)
    assert next(stream) == 0
    stream.close()


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_work import sleep_for_long
from histojax.common.work import run
if __name__ == "__main__":
    list(run(sleep_for_long, [{folder!r}], 1))
"""


def sleep_for_long(folder):
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.path.join(folder, "pid"), os.path.join(folder, "started"))
    time.sleep(600)


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=[p for p in sys.path if p], folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    _wait_until(lambda: (tmp_path / "started").exists())
    worker = int((tmp_path / "started").read_text())
    parent.kill()
    parent.wait()
    _wait_until(lambda: not os.path.exists(f"/proc/{worker}") or _is_zombie(worker))


def _is_zombie(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def _wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_unknown_executor_is_named():
    with pytest.raises(UserError, match="known are local, ray"):
        run(double, [1], 1, executor="dask")
