"""What one process of a run learns, all know before any of them acts on it.

The processes talk beside the devices: every one holds a line, a TCP connection, to a hub in process 0. A round of
`gather` is over when all have spoken, and costs no work of a device. The line also says who has left: a process that
fails says why before it goes, a killed one is noticed as its line breaks, a vanished host by its silence. The others
then end with that message, since the next collective operation would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from histojax.parallel.hub import BEAT_SECONDS, DIED, SILENCE_SECONDS, Hub, lines, send

NEWS_SECONDS = 2.0  # until a broken line was noticed and told
GRACE_SECONDS = 5.0  # for a process to end by itself, with words of its own, after it heard that another one left


class Together:
    """The processes of a run, seen from one of them; all call the same methods in the same order."""

    def __init__(self, index: int = 0, count: int = 1, end: Callable[[str, int], None] | None = None):
        self.index, self.count = index, count
        self._end = end or _end_process
        self._line: socket.socket | None = None
        self._hub: Hub | None = None
        self._sending, self._heard = threading.Lock(), threading.Condition()
        self._round = 0
        self._values: dict[int, list[Any]] = {}
        self._left = False  # closed, or left with a message
        self._told = threading.Event()  # that this process left
        self._ended: tuple[str, int] | None = None  # what is known of another process that left

    @classmethod
    def host(cls, count: int, end: Callable[[str, int], None] | None = None) -> tuple[Together, int, str]:
        """(process 0 of so many, port of the hub, word by which it knows them); the others `join`."""
        word = secrets.token_hex(16)
        hub = Hub(count, word)
        one = cls(0, count, end)
        one._hub = hub
        one._connect("127.0.0.1", hub.port, word)
        return one, hub.port, word

    @classmethod
    def join(
        cls, address: str, port: int, word: str, index: int, count: int, end: Callable[[str, int], None] | None = None
    ) -> Together:
        """Process `index` of so many, in touch with the hub at that address."""
        one = cls(index, count, end)
        one._connect(address, port, word)
        return one

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the run's files."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """The values (JSON) of all processes in their order. Waits for them; does not return if one of them left."""
        if self._line is None:
            return [value]
        self._round += 1
        send(self._line, {"round": self._round, "value": value}, self._sending)
        with self._heard:
            self._heard.wait_for(lambda: self._round in self._values)
            return self._values.pop(self._round)

    def from_first(self, value: Any) -> Any:
        """What process 0 said; the others' value is not looked at."""
        return self.gather(value if self.main else None)[0]

    def leave(self, words: str, code: int) -> None:
        """Tells the others why this process ends, with which exit code; they end, too."""
        if self._line is None or self._left:
            return
        self._left = True
        self._ended = self._ended or (words, code)
        with contextlib.suppress(OSError):
            send(self._line, {"leave": words, "code": code}, self._sending)
        self._told.wait(GRACE_SECONDS)  # until the hub has passed it on: it may go with this process
        self._outlive_others()

    def wait_for_news(self) -> None:
        """Where an operation over all devices failed here, the cause may be that another process is gone: this one
        then ends within the call, with that message."""
        if self._line is not None:
            time.sleep(NEWS_SECONDS)

    def close(self) -> None:
        """Says goodbye when all have come to their end; the others go on."""
        if self._line is None or self._left:
            return
        self.gather("goodbye")
        self._left = True
        with contextlib.suppress(OSError):
            send(self._line, {"bye": True}, self._sending)
        if self._hub:
            self._hub.close()

    @property
    def failed(self) -> int | None:
        """The exit code where this process or another one failed; None if all is well."""
        return self._ended[1] if self._ended else None

    def _connect(self, address: str, port: int, word: str) -> None:
        self._line = socket.create_connection((address, port), timeout=60)
        self._line.settimeout(None)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send(self._line, {"hello": self.index, "word": word, "host": socket.gethostname()}, self._sending)
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def _listen(self) -> None:
        """Hears the values of rounds and who left, until the line is closed."""
        assert self._line
        self._line.settimeout(SILENCE_SECONDS)
        with contextlib.suppress(OSError):
            for said in lines(self._line):
                if "values" in said:
                    with self._heard:
                        self._values[said["round"]] = said["values"]
                        self._heard.notify_all()
                elif said.get("ended") == self.index:
                    self._told.set()
                    return
                elif "ended" in said:
                    self._other_left(said["words"], said["code"])
                    return
        if not self._left:
            self._other_left("process 0 died, or its host cannot be reached any more", DIED)

    def _other_left(self, words: str, code: int) -> None:
        """Ends this process, unless it does so by itself in a moment."""
        if self._ended is None:
            self._ended = words, code
        self._told.set()
        if self._left:  # it failed itself, too, and is about to say why
            time.sleep(GRACE_SECONDS)
        self._outlive_others()
        self._end(*self._ended)

    def _outlive_others(self) -> None:
        if self._hub:
            self._hub.wait_for_others(GRACE_SECONDS)

    def _beat(self) -> None:
        """A sign of life now and then."""
        assert self._line
        with contextlib.suppress(OSError):
            while not self._left:
                time.sleep(BEAT_SECONDS)
                send(self._line, {}, self._sending)


def _end_process(words: str, code: int) -> None:
    """Every file of a run is written to survive an end at any moment."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\nhistojax: {words}\n".encode())
    os._exit(code)
