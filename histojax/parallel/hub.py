"""The switchboard of a run's processes: hears all of them, passes on what they said, notices who is gone."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

BEAT_SECONDS = 5.0  # between signs of life
SILENCE_SECONDS = 40.0  # without one a process counts as dead: collective operations would wait for it for ever
LATE_SECONDS = 120.0  # that all wait for a process before it is named: it may compile, or its storage hang
DIED = 4  # exit code of the others where a process died without a word


class Hub:
    """Listens for `count` processes that know `word`. Each has a thread here, which reads what it says."""

    def __init__(self, count: int, word: str):
        self._count, self._word = count, word
        self._lines: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {}
        self._rounds: dict[int, dict[int, Any]] = {}
        self._due: dict[int, float] = {}  # round: when those that have not spoken are named
        self._gone: set[int] = set()  # said goodbye
        self._closed: set[int] = set()  # their lines are closed, so they are no more
        self._lock, self._sending = threading.RLock(), threading.Lock()
        self._ended: dict[str, Any] | None = None
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, backlog=count + 8, dualstack_ipv6=both)
        self.port: int = self._server.getsockname()[1]
        for work in (self._accept, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def close(self, seconds: float = 10.0) -> None:
        """Returns when all have said goodbye, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while len(self._gone) < self._count and time.monotonic() < deadline:
            time.sleep(0.01)
        self._server.close()

    def wait_for_others(self, seconds: float) -> None:
        """Returns when all processes but 0, which has jax's service, are no more, or after so many seconds.

        jax aborts a process whose service is gone, in the middle of the words with which it ends.
        """
        deadline = time.monotonic() + seconds
        while set(self._lines) - {0} - self._closed and time.monotonic() < deadline:
            time.sleep(0.01)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        """Reads what one process says until it is gone."""
        line.settimeout(SILENCE_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        index, why = -1, "died"
        try:
            for said in lines(line):
                if index < 0:
                    if said.get("word") != self._word:
                        return
                    index = int(said["hello"])
                    self._enter(index, line, said["host"])
                else:
                    self._hear(index, said)
        except TimeoutError:
            why = f"gave no sign of life for {SILENCE_SECONDS:.0f} seconds"
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        if index >= 0:
            self._closed.add(index)
        if index >= 0 and index not in self._gone:
            self._end(index, why, DIED)

    def _enter(self, index: int, line: socket.socket, host: str) -> None:
        with self._lock:
            self._lines[index], self._hosts[index] = line, host
            if self._ended:
                send(line, self._ended, self._sending)

    def _hear(self, index: int, said: dict[str, Any]) -> None:
        if "value" in said:
            with self._lock:
                values = self._rounds.setdefault(said["round"], {})
                values[index] = said["value"]
                self._due.setdefault(said["round"], time.monotonic() + LATE_SECONDS)
                if len(values) == self._count:
                    del self._rounds[said["round"]], self._due[said["round"]]
                    self._tell({"round": said["round"], "values": [values[i] for i in range(self._count)]})
        elif "leave" in said:
            self._end(index, f"ended: {said['leave']}", said["code"])
        elif "bye" in said:
            self._gone.add(index)

    def _end(self, index: int, why: str, code: int) -> None:
        """Tells everybody that one is gone; only the first such news counts."""
        with self._lock:
            self._gone.add(index)
            if self._ended is None:
                words = f"process {index} of {self._count} on {self._hosts[index]} {why}; this process ends, too"
                self._ended = {"ended": index, "words": words, "code": code}
                self._tell(self._ended)

    def _tell(self, said: dict[str, Any]) -> None:
        for line in list(self._lines.values()):
            with contextlib.suppress(OSError):  # its own thread notices
                send(line, said, self._sending)

    def _beat(self) -> None:
        while self._server.fileno() >= 0:
            time.sleep(BEAT_SECONDS)
            self._tell({})
            self._name_the_late()

    def _name_the_late(self) -> None:
        """Says on stderr, once a round, for whom all wait: a process that hangs looks alive, and nothing else tells."""
        with self._lock:
            for number, due in self._due.items():
                if time.monotonic() > due:
                    self._due[number] = float("inf")
                    late = sorted(set(range(self._count)) - set(self._rounds[number]))
                    names = ", ".join(f"process {i} on {self._hosts.get(i, 'an unknown host')}" for i in late)
                    print(f"waiting for {LATE_SECONDS:.0f} seconds for {names} ...", file=sys.stderr, flush=True)


def send(line: socket.socket, said: dict[str, Any], lock: threading.Lock) -> None:
    """Sends one message whole."""
    with lock:
        line.sendall(json.dumps(said).encode() + b"\n")


def lines(line: socket.socket) -> Iterator[dict[str, Any]]:
    """The messages of the other side until it closes; TimeoutError after the socket's time without any."""
    rest = b""
    while got := line.recv(65536):
        *whole, rest = (rest + got).split(b"\n")
        yield from map(json.loads, whole)
