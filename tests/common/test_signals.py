"""What a signal does: at once if nothing would be lost, after saving if something would."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from histojax.common import signals
from histojax.common.signals import Stop

PROGRAM = """
import hashlib, sys
from histojax.common.signals import Stop

stop = Stop()
stop.unsaved = sys.argv[1] == "unsaved"
with stop.listening():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in which Python's own handlers do not run
"""


def start(how):
    command = [sys.executable, "-c", PROGRAM, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_with_nothing_to_save_ends_the_process_inside_a_long_call(number):
    process = start("saved")
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert f"{number.name}: nothing to save" in errors


def test_the_second_signal_ends_the_process_inside_a_long_call():
    process = start("unsaved")
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "\n"
    assert "SIGTERM: saving after this step; once more to abort" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "SIGINT: not saved" in errors


def test_signals_are_noted_within_the_block_and_as_before_after_it(capsys):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        stop = Stop()
        stop.unsaved = True
        threads = threading.active_count()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 10
            while not stop.signal and time.monotonic() < deadline:
                time.sleep(0.01)
        assert stop.signal == signal.SIGTERM and came == []
        assert threading.active_count() == threads
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM] and stop.signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_can_use_it_without_listening():
    stop, entered = Stop(), []

    def work():
        with stop.listening():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def test_others_are_told_before_the_process_ends_at_once(monkeypatch):
    """Of several processes the others would else find this one gone, and die amid their work."""
    came = []
    monkeypatch.setattr(signals.os, "_exit", lambda code: came.append(code))
    Stop(lambda *told: came.append(told))._ask(signal.SIGTERM)
    assert came[0] == ("SIGTERM: nothing to save; the same command starts again from here", 143) and came[1] == 143
