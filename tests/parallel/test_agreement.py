"""The line between processes, here between threads: rounds, words of a process that leaves, lines that break."""

import socket
import threading
import time

import pytest

from histojax.parallel import agreement, hub
from histojax.parallel.agreement import DIED, Together


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(agreement, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(agreement, "NEWS_SECONDS", 0.1)


def gather_of(count):
    """(processes, [(index, words, code) of those that had to end])."""
    ends = []
    first, port, word = Together.host(count, end=lambda *how: ends.append((0, *how)))
    others = [
        Together.join("127.0.0.1", port, word, i, count, end=lambda *how, i=i: ends.append((i, *how)))
        for i in range(1, count)
    ]
    return [first, *others], ends


def at_once(calls):
    """What each of the calls returns, all made at the same time."""
    found = [None] * len(calls)

    def run(place, call):
        found[place] = call()

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def eventually_within(seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def eventually(condition):
    return eventually_within(5, condition)


def test_every_process_hears_what_all_said_round_by_round():
    processes, ends = gather_of(3)
    for number in range(20):
        said = at_once([lambda one=one, n=number: one.gather([one.index, n]) for one in processes])
        assert said == [[[0, number], [1, number], [2, number]]] * 3
    assert at_once([lambda one=one: one.from_first(f"said by {one.index}") for one in processes]) == ["said by 0"] * 3
    at_once([one.close for one in processes])
    time.sleep(0.1)
    assert not ends
    assert [one.failed for one in processes] == [None] * 3


def test_a_process_that_hangs_is_named_once(monkeypatch, capsys):
    """Its sign of life goes on: nothing would say for whom all wait."""
    monkeypatch.setattr(hub, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(hub, "LATE_SECONDS", 0.1)
    (first, other), _ = gather_of(2)
    threading.Thread(target=first.gather, args=(1,), daemon=True).start()
    time.sleep(0.4)
    other.gather(2)
    said = capsys.readouterr().err
    assert said.count("waiting for") == 1 and f"process 1 on {socket.gethostname()} ..." in said


def test_a_process_alone_agrees_with_itself():
    one = Together()
    assert one.gather("x") == ["x"] and one.from_first(3) == 3 and one.main
    one.leave("words", 2)
    one.close()
    assert one.failed is None


def test_the_process_with_the_service_ends_last(monkeypatch):
    """jax aborts the others without it, before they have said why they end."""
    monkeypatch.setattr(agreement, "GRACE_SECONDS", 5.0)
    (first, other), ends = gather_of(2)
    other.leave("a typo", 2)
    assert not eventually_within(0.3, lambda: ends)
    other._line.shutdown(socket.SHUT_RDWR)  # as when the process is gone
    assert eventually(lambda: ends) and ends[0][0] == 0 and "a typo" in ends[0][1]
    assert first.failed == 2


@pytest.mark.parametrize("who", [0, 2])
def test_the_others_end_with_the_words_of_one_that_failed(who):
    """Also those that wait for it in a round."""
    processes, ends = gather_of(3)
    waiting = processes[1]
    threading.Thread(target=waiting.gather, args=(1,), daemon=True).start()
    processes[who].leave("tiles/: no such folder", 2)
    assert processes[who].failed == 2
    assert eventually(lambda: len(ends) == 2)
    assert {index for index, _, _ in ends} == {0, 1, 2} - {who}
    for _, words, code in ends:
        assert code == 2
        assert f"process {who} of 3 on {socket.gethostname()} ended: tiles/: no such folder" in words


def test_two_that_fail_alike_each_say_it_themselves():
    processes, _ = gather_of(2)
    at_once([lambda one=one: one.leave("no such folder", 2) for one in processes])
    assert [one.failed for one in processes] == [2, 2]


@pytest.mark.parametrize(("who", "expected"), [(1, "process 1 of 3 on"), (0, "process 0 died")])
def test_a_broken_line_ends_the_others(who, expected):
    """As the kernel closes the connections of a process that was killed."""
    processes, ends = gather_of(3)
    at_once([lambda one=one: one.gather(0) for one in processes])
    processes[who]._end = lambda *how: None
    hub = processes[0]._hub
    if who == 0:
        hub._ended = {"a hub that is gone": "tells nobody"}
    for line in [processes[who]._line, *(hub._lines.values() if who == 0 else ())]:
        line.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: {index for index, _, _ in ends} >= {0, 1, 2} - {who})
    words, code = next((words, code) for index, words, code in ends if index == 2)
    assert code == DIED
    assert expected in words and "died" in words


def test_a_silent_process_counts_as_dead(monkeypatch):
    """A host that is gone closes no connection."""
    monkeypatch.setattr("histojax.parallel.hub.SILENCE_SECONDS", 0.3)
    monkeypatch.setattr("histojax.parallel.hub.BEAT_SECONDS", 0.05)
    monkeypatch.setattr(agreement, "BEAT_SECONDS", 0.05)
    ends = []
    _, port, word = Together.host(2, end=lambda *how: ends.append(how))
    line = socket.create_connection(("127.0.0.1", port))
    line.sendall(f'{{"hello": 1, "word": "{word}", "host": "b"}}\n'.encode())
    assert eventually(lambda: ends)
    assert "process 1 of 2 on b gave no sign of life" in ends[0][0]


def test_a_stranger_is_not_heard():
    processes, ends = gather_of(2)
    stranger = socket.create_connection(("127.0.0.1", processes[0]._hub.port))
    stranger.sendall(b'{"hello": 1, "word": "guess", "host": "x"}\n{"leave": "stop", "code": 2}\nno json\n')
    assert at_once([lambda one=one: one.gather(one.index) for one in processes]) == [[0, 1], [0, 1]]
    assert not ends
