"""The line that says how far a long job is: one that rewrites itself on a terminal, plain lines in a log file."""

from __future__ import annotations

import collections
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

TERMINAL_SECONDS = 0.2  # between two drawings of the line: more often only costs
PLAIN_SECONDS = 10.0  # between two lines of a log file
WINDOW_SECONDS = 60.0  # rates are of the last minute: long enough to be steady, short enough to show a slowdown


class Progress:
    """Shows steps, values, items a second, the share of time spent waiting for data, elapsed and remaining time.

    `total` steps, of which `start` were done before (a resume). The first call of `update` ends the warm-up: the
    seconds before it (compilation) count as elapsed but not in the rates.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        unit: str = "step",
        items: str = "images",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.unit, self.items = total, unit, items
        self.stream = sys.stderr if stream is None else stream
        self.terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        self._clock = clock
        self._begin = clock()
        self._shown_at = -float("inf")
        self._step: float = start
        self._items, self._waited = 0, 0.0
        self._values: dict[str, float] = {}
        self._window: collections.deque[tuple[float, float, int, float]] = collections.deque()

    def update(
        self, step: float, items: int = 0, waited_seconds: float = 0.0, values: Mapping[str, float] | None = None
    ) -> None:
        """Tells that `step` steps are done, maybe part of one; `items` and `waited_seconds` are what was added since.

        `values` replace those shown so far. Draws at most every 0.2 s (10 s if not on a terminal), and at the end.
        """
        now = self._clock()
        self._step, self._items, self._waited = step, self._items + items, self._waited + waited_seconds
        if values is not None:
            self._values = dict(values)
        self._window.append((now, step, self._items, self._waited))
        while len(self._window) > 2 and now - self._window[0][0] > WINDOW_SECONDS:
            self._window.popleft()
        pause = TERMINAL_SECONDS if self.terminal else PLAIN_SECONDS
        if now - self._shown_at >= pause or step >= self.total:
            self._shown_at = now
            self._draw()

    def note(self, text: str) -> None:
        """Prints a line of its own, above the moving one."""
        if self.terminal:
            print("\r\033[K", end="", file=self.stream)
        print(text, file=self.stream, flush=True)
        if self.terminal and self._window:
            self._draw()

    def close(self) -> None:
        """Leaves the last state on a line of its own."""
        if self.terminal and self._window:
            self._draw()
            print(file=self.stream, flush=True)

    def rates(self) -> dict[str, float]:
        """Of the last minute: steps_per_second, {items}_per_second, data_wait_share; empty before two updates."""
        if len(self._window) < 2:
            return {}
        (t0, step0, items0, waited0), (t1, step1, items1, waited1) = self._window[0], self._window[-1]
        seconds = max(t1 - t0, 1e-9)
        return {
            "steps_per_second": (step1 - step0) / seconds,
            f"{self.items}_per_second": (items1 - items0) / seconds,
            "data_wait_share": min((waited1 - waited0) / seconds, 1.0),
        }

    @property
    def elapsed_seconds(self) -> float:
        """Since this object was made."""
        return self._clock() - self._begin

    def line(self) -> str:
        """The line as it would be shown now."""
        share = f" ({100 * self._step / self.total:.0f}%)" if self.total else ""
        step = f"{self._step:.1f}" if self._step != int(self._step) else f"{self._step:.0f}"
        parts = [f"{self.unit} {step}/{self.total}{share}"]
        if self._values:
            parts.append(" ".join(f"{name} {_short(value)}" for name, value in self._values.items()))
        rates = self.rates()
        if rates and self._items:
            parts.append(f"{_short(rates[f'{self.items}_per_second'])} {self.items}/s")
        if rates and self._waited:
            parts.append(f"data wait {100 * rates['data_wait_share']:.0f}%")
        if rates and rates["steps_per_second"] > 0 and self._step < self.total:
            parts.append(f"ETA {hms((self.total - self._step) / rates['steps_per_second'])}")
        parts.append(f"elapsed {hms(self.elapsed_seconds)}")
        return " | ".join(parts)

    def _draw(self) -> None:
        line = self.line()
        if not self.terminal:
            print(line, file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + line[:width], end="", file=self.stream, flush=True)


def hms(seconds: float) -> str:
    """Seconds as h:mm:ss, days included in the hours."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
