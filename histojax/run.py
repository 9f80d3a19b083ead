"""A run's folder: whole files, the config it belongs to, who made it, its metrics. Neither jax nor numpy here.

config.json      the configuration; a run of another one is refused
provenance.json  one entry a start: versions, machine, command line, commit, data fingerprint
metrics.jsonl    one row a look, only numbers that a second run would repeat bit for bit
timing.jsonl     the wall-clock side of the same rows
tensorboard/     both, for TensorBoard
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.errors import UserError

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; leaving the block moves the finished file there, fsynced.

    For writers that want a file of their own (safetensors, matplotlib). After any error, a full disk included,
    `path` is as it was and the temporary file is gone; operating system errors come out as UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)}){_advice(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) so that `path` holds either the old content or all of the new one.

    A file name in it that is no UTF-8 gets the bytes back that Python read (surrogateescape). Raises UserError if
    it fails (no such folder, no permission, disk full); the old file then stays.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)


def disk_free_check(path: str | os.PathLike, need_bytes: int) -> int:
    """Free bytes on the disk that holds `path` (which need not exist yet); UserError if below `need_bytes`.

    Quotas are not visible here: a run can still meet a full disk, and then fails whole.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise UserError(
            f"{path}: {free / 1e9:.2f} GB free on its disk, {need_bytes / 1e9:.2f} GB needed; "
            "make room or choose a folder on another disk"
        )
    return free


class RunFolder:
    """The folder `path` of one run, created if missing and held against other processes until `close`.

    Raises UserError if the folder cannot be made or written, or if a living process holds it. The lock belongs to
    the process (flock), so it dies with it: a killed run never blocks the next. On several hosts only the first
    process should own a RunFolder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"{self.path}: not a folder that can be written ({_reason(error)}); choose another --workdir"
            ) from error
        try:
            self._take_lock()
        except BaseException:
            os.close(self._lock)
            raise
        self._remove_unfinished()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 200, 0).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{self.path}: {owner} uses this folder; wait for it, stop it or choose another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise UserError(f"{self.path}: cannot be locked ({_reason(error)})") from error
            # a file system without locks (some cluster mounts): go on, nothing guards the folder there
        with contextlib.suppress(OSError):  # the text is only for the message above
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _remove_unfinished(self) -> None:
        """Deletes temporary files that a kill left behind; the lock says nobody is writing one."""
        for leftover in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()

    def close(self) -> None:
        """Lets the next process in; a folder in which nothing came to be goes."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                if [path.name for path in self.path.iterdir()] == [".lock"]:
                    (self.path / ".lock").unlink()
                    self.path.rmdir()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> bool:
        """Makes the folder that of `config`, with its values of the leaves in `may_change`; else as `check_folder`."""
        begun = check_folder(self.path, config, may_change)
        self._store_config(json.loads(json.dumps(config)), may_change)
        return begun

    def _store_config(self, config: dict, may_change: Sequence[str]) -> None:
        record = {"fingerprint": config_fingerprint(config, may_change), "config": config}
        write_atomic(self.path / "config.json", json.dumps(record, indent=1, sort_keys=True) + "\n")

    def write_provenance(self, step: int, versions: Mapping[str, str], **facts: Any) -> dict:
        """The entry it adds to provenance.json for this start of the run at `step`.

        `versions` are of packages that the caller imported (jax, flax, ...); `facts` is whatever else should be
        known (data fingerprint, devices), as JSON values. Machine, command line, commit and time are added.
        """
        path = self.path / "provenance.json"
        record = _read_json(path) if path.exists() else {"starts": []}
        entry = {
            "step": step,
            "start_time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": list(sys.argv),
            "versions": {"python": platform.python_version(), **versions},
            "platform": platform.platform(),
            "host": socket.gethostname(),
            "commit": commit(),
            **facts,
        }
        record.setdefault("starts", []).append(entry)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        return entry


def check_folder(folder: str | os.PathLike, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> bool:
    """Whether `folder`, which need not exist, holds a run of `config` that was begun; no lock, nothing is written.

    `config` is a nested mapping of JSON values (`ConfigDict.to_dict()`; tuples count as lists). A run of a config
    that differs raises UserError with every differing leaf, except for the leaves or groups of leaves named in
    `may_change` ("log", "data.workers").
    """
    folder = Path(folder)
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise UserError(f"{folder}: the name is not UTF-8, which checkpoints need; choose another --workdir")
    path = folder / "config.json"
    begun = [name for name in (METRICS, "checkpoints") if (folder / name).exists()]
    if not begun:
        return False  # a start that failed before its first step binds nobody
    if not path.exists():
        raise UserError(
            f"{folder}: holds {begun[0]} but no config.json, so the run it belongs to is unknown; "
            "choose another --workdir"
        )
    stored = _read_json(path)
    if not isinstance(stored.get("config"), dict):
        raise UserError(f"{path}: has no 'config': not written by histojax; choose another --workdir")
    different = config_differences(stored["config"], json.loads(json.dumps(config)))
    fixed = [line for name, line in different.items() if not _named(name, may_change)]
    if fixed:
        raise UserError(
            f"{folder} belongs to another config: {'; '.join(fixed)}. "
            "Give these leaves their old values to resume it, or choose another --workdir"
        )
    return True


def config_fingerprint(config: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the config's leaves, leaving out the leaves and groups named in `without`."""
    leaves = {k: v for k, v in _leaves(json.loads(json.dumps(config))) if not _named(k, without)}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """{dotted leaf: "leaf was X, now Y"} for every leaf that differs, sorted."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    return {
        name: f"{name} was {_shown(a, name)}, now {_shown(b, name)}"
        for name in sorted({**a, **b})
        if _shown(a, name) != _shown(b, name)
    }


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return json.dumps(leaves[name]) if name in leaves else "absent"


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _named(name: str, names: Sequence[str]) -> bool:
    return any(name == n or name.startswith(n + ".") for n in names)


def commit() -> str | None:
    """The git commit of this source ("+changes" if its tree is modified), or None if it is not a checkout."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here.parent), *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside somebody else's tree
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


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
            raise UserError(f"{path}: cannot be written ({_reason(error)}){_advice(error)}") from error
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(prefix + key, float(value), int(step))

    def sync(self) -> int:
        """Size of metrics.jsonl, with all rows on disk; call before a checkpoint, which must not outlive its rows."""
        for name, file in self._files.items():
            try:
                os.fsync(file)
            except OSError as error:
                raise UserError(f"{self.folder / name}: cannot be written ({_reason(error)})") from error
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
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error
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
        raise UserError(f"{path}: cannot be shortened ({_reason(error)}){_advice(error)}") from error


def _open_append(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)})") from error


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


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it should be JSON written by histojax") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, expected a JSON object written by histojax")
    return found


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; make room and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; choose a folder you may write to"
    return ""
