"""The numbers of a run: rows in JSONL files and in TensorBoard, cut where a resumed run goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import advice, reason

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"


class MetricWriter:
    """Appends rows of numbers to the run's JSONL files and to TensorBoard.

    `resumed_step` is the step of the restored checkpoint: rows after it, and a last line that a kill cut short,
    are removed, so that metrics.jsonl ends up as in a run that was never stopped. None starts from nothing.
    `resumed_bytes`, what `sync` returned then, also removes rows of that step itself that came later.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        resumed_step: int | None = None,
        tensorboard: bool = True,
        resumed_bytes: int | None = None,
    ):
        self.folder = Path(folder)
        self._files = {}
        for name, most in ((METRICS, resumed_bytes), (TIMING, None)):
            _cut(self.folder / name, -1 if resumed_step is None else resumed_step, most)
            self._files[name] = _open_append(self.folder / name)
        self._board = _tensorboard(self.folder / "tensorboard", resumed_step) if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row of numbers that are a function of config, data and seed alone (no clocks)."""
        self._append(METRICS, "", step, values)

    def write_timing(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row of wall-clock numbers (seconds, images per second)."""
        self._append(TIMING, "timing/", step, values)

    def _append(self, name: str, prefix: str, step: int, values: Mapping[str, float]) -> None:
        row = {"step": int(step), **{key: _json_number(value) for key, value in values.items()}}
        line = memoryview((json.dumps(row, allow_nan=False) + "\n").encode())
        try:
            while line:
                line = line[os.write(self._files[name], line) :]
        except OSError as error:
            path = self.folder / name
            raise UserError(f"{path}: cannot be written ({reason(error)}){advice(error)}") from error
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(prefix + key, float(value), int(step))

    def sync(self) -> int:
        """Size of metrics.jsonl, with all rows on disk; call before a checkpoint, which must not outlive its rows."""
        for name, file in self._files.items():
            try:
                os.fsync(file)
            except OSError as error:
                raise UserError(f"{self.folder / name}: cannot be written ({reason(error)})") from error
        if self._board is not None:
            self._board.flush()
        return os.fstat(self._files[METRICS]).st_size

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            os.close(file)
        self._files = {}
        if self._board is not None:
            self._board.close()
            self._board = None


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Rows of a metrics.jsonl or timing.jsonl, every value a number; a last line cut short is left out."""
    return [row for row, _ in _rows(Path(path)) if row is not None]


def _rows(path: Path) -> Iterator[tuple[dict[str, float] | None, int]]:
    """(row, where it ends in bytes); the last may be (None, ...), cut short by a kill."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error
    end = 0
    for number, line in enumerate(lines, start=1):
        end += len(line)
        row = _row(line)
        if row is None and number < len(lines):
            raise UserError(f"{path}: line {number} is not a row of metrics; move the file away to go on")
        yield row, end


def _row(line: bytes) -> dict[str, float] | None:
    try:
        values = json.loads(line)
        row = {key: value if isinstance(value, int) else float(value) for key, value in values.items()}
        return row if line.endswith(b"\n") and isinstance(row["step"], int) else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def _cut(path: Path, step: int, most: int | None = None) -> None:
    """Truncates the file after its rows up to and with `step` (they never go back in steps), `most` bytes at most."""
    if not path.exists():
        return
    keep = 0
    for row, end in _rows(path):
        if row is None or row["step"] > step or (most is not None and end > most):
            break
        keep = end
    try:
        os.truncate(path, keep)
    except OSError as error:
        raise UserError(f"{path}: cannot be shortened ({reason(error)}){advice(error)}") from error


def _open_append(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)})") from error


def _tensorboard(folder: Path, resumed_step: int | None) -> Any:
    try:
        from tensorboardX import SummaryWriter  # slow to import, and not every run wants it
    except ImportError as error:
        raise UserError("log.tensorboard needs tensorboardX: install it or set log.tensorboard=False") from error
    return SummaryWriter(str(folder), purge_step=0 if resumed_step is None else resumed_step + 1)


def _json_number(value: float) -> int | float | str:
    """JSON has no NaN and no infinity: they are written as the strings that float() reads back."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
