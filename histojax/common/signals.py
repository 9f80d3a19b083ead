"""Leaving on a signal: after saving what there is to save, or at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


class Interrupted(Exception):
    """Breaks off work that can be done again after the next start; `number` is the signal that came."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stop:
    """The first SIGTERM or Ctrl-C asks the loop to save and leave; the second ends the process at once.

    So does the first one while there is nothing to save. A thread listens, because Python's own handlers wait for
    the main thread, which can be inside a compilation for minutes. The process may end anywhere: every file of a
    run is written to survive that.
    """

    def __init__(self, tell: Callable[[str, int], None] | None = None) -> None:
        self._tell = tell  # is told in words, and with which exit code, that the process ends at once
        self.signal = 0
        self.unsaved = False  # whether steps were made since the start that no checkpoint on disk has

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are caught within the block (only possible in the main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        wakeup = signal.set_wakeup_fd(writing)
        handlers = {number: signal.signal(number, _leave_to_the_thread) for number in (signal.SIGTERM, signal.SIGINT)}
        listener = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        listener.start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.write(writing, b"\0")
            listener.join()
            os.close(reading)
            os.close(writing)

    def _listen(self, pipe: int) -> None:
        """Python writes the number of each signal into the pipe, whatever the main thread does; 0 is the end."""
        while number := os.read(pipe, 1)[0]:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._ask(number)

    def _ask(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.signal or not self.unsaved:
            why = "not saved" if self.unsaved else "nothing to save; the same command starts again from here"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{name}: {why}\n".encode())
            if self._tell:
                self._tell(f"{name}: {why}", 128 + number)
            os._exit(128 + number)
        self.signal = number
        print(f"\n{name}: saving after this step; once more to abort", file=sys.stderr, flush=True)


def _leave_to_the_thread(_number: int, _frame: object) -> None:
    """Python writes to the pipe only for signals that have a handler."""
